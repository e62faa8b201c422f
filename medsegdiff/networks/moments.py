"""Mean and variance of what comes one after the other."""

from __future__ import annotations

import torch


class RunningMoments:
    """Mean and variance of a stream of class probabilities (B, K, *S), in the memory of K + 1 maps (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)

    def add(self, *values: torch.Tensor) -> None:
        """Take the next tensors (B, K, *S); all have one shape."""
        for value in values:
            self.count += 1
            if self.count == 1:
                self.mean, self._squares = value.clone(), torch.zeros_like(value[:, :1])
                continue
            # Class by class, so that what lies in between is small.
            for mean, one in zip(self.mean.split(1, dim=1), value.split(1, dim=1), strict=True):  # (B, 1, *S) each
                delta = one - mean
                mean.add_(delta, alpha=1 / self.count)
                self._squares.addcmul_(delta, delta, value=1 - 1 / self.count)

    def variance(self) -> torch.Tensor:
        """Half the sum over classes of the unbiased variances so far (B, 1, *S); zeros after a single tensor.

        The probabilities of two classes vary alike, so that this is the variance of either.
        """
        return self._squares / (2 * max(self.count - 1, 1))
