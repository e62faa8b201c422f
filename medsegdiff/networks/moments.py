"""Mean and variance of what comes one after the other."""

from __future__ import annotations

import torch


class RunningMoments:
    """Mean and variance of a stream of tensors in the memory of two (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)

    def add(self, *values: torch.Tensor) -> None:
        """Take the next tensors; all have one shape."""
        for value in values:
            self.count += 1
            if self.count == 1:
                self.mean, self._squares = value.clone(), torch.zeros_like(value)
                continue
            delta = value - self.mean
            self.mean.add_(delta, alpha=1 / self.count)
            self._squares.addcmul_(delta, value - self.mean)

    def variance(self) -> torch.Tensor:
        """The unbiased variance so far; zeros after a single tensor."""
        return self._squares / max(self.count - 1, 1)
