"""Mean and variance of class probabilities that come one after the other."""

from __future__ import annotations

import torch

_LEVELS = (1 << 24) - 1
"""Probabilities are kept in this many steps, as fine as float32 next to one, in three bytes in place of four."""


class RunningMoments:
    """Mean and variance of a stream of probabilities (B, K, *S) in [0, 1] (Welford 1962).

    They live beside the sampling of further draws, where a volume of many classes leaves little memory: the mean takes
    three bytes a number, the variance one map for all classes.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.empty(0)  # (3, B, K, *S), bytes
        self._squares = torch.empty(0)  # (B, 1, *S)

    @property
    def mean(self) -> torch.Tensor:
        """The mean so far (B, K, *S), float32."""
        return torch.cat([_unpack(packed) for packed in self._mean.split(1, dim=2)], dim=1)

    def add(self, *values: torch.Tensor) -> None:
        """Take the next tensors (B, K, *S); all have one shape."""
        for value in values:
            self.count += 1
            if self.count == 1:
                self._mean = value.new_empty((3, *value.shape), dtype=torch.uint8)
                self._squares = torch.zeros_like(value[:, :1])
            # Class by class, so that what lies in between is small.
            for packed, one in zip(self._mean.split(1, dim=2), value.split(1, dim=1), strict=True):  # (B, 1, *S) each
                if self.count == 1:
                    packed.copy_(_pack(one))
                    continue
                mean = _unpack(packed)
                delta = one - mean
                packed.copy_(_pack(mean.add_(delta, alpha=1 / self.count)))
                self._squares.addcmul_(delta, delta, value=1 - 1 / self.count)

    def variance(self) -> torch.Tensor:
        """Half the sum over classes of the unbiased variances so far (B, 1, *S); zeros after a single tensor.

        The probabilities of two classes vary alike, so that this is the variance of either.
        """
        return self._squares / (2 * max(self.count - 1, 1))


def _pack(probabilities: torch.Tensor) -> torch.Tensor:
    """Three bytes (3, …) for each of the probabilities (…)."""
    levels = (probabilities * _LEVELS).round_().clamp_(0, _LEVELS).to(torch.int32)
    return torch.stack([(levels >> shift & 255).to(torch.uint8) for shift in (0, 8, 16)])


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """The probabilities (…), float32, of three bytes (3, …) each."""
    low, middle, high = packed.to(torch.int32)
    return (low + (middle << 8) + (high << 16)).float() / _LEVELS
