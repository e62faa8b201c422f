"""How much the samples of a batch differ, as a feature."""

from __future__ import annotations

import torch
from torch import nn


class MinibatchStddev(nn.Module):
    """Appends one channel that holds the mean standard deviation over groups of samples (Karras et al. 2018).

    A discriminator can tell by it that a generator always gives the same. Groups have as many samples as divide the
    batch, `group_size` at most; a sample alone has a deviation of zero.

    Args:
        group_size: largest number of samples in a group.
    """

    def __init__(self, group_size: int = 4) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *S) to (B, C + 1, *S)."""
        size = next(n for n in range(min(self.group_size, len(x)), 0, -1) if len(x) % n == 0)
        groups = x.float().unflatten(0, (size, -1))  # (G, B/G, C, *S)
        # The summand keeps the slope of the root finite; it would be lost in half precision.
        deviation = (groups.var(dim=0, correction=0) + 1e-8).sqrt()  # (B/G, C, *S)
        mean = deviation.flatten(1).mean(dim=1).repeat(size)  # (B,), sample i being in group i modulo B/G
        channel = mean.to(x.dtype).view(-1, *(1,) * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])  # (B, 1, *S)
        return torch.cat([x, channel], dim=1)
