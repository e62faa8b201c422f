"""The residual-in-residual dense block (RRDB) of ESRGAN, in 2-D and 3-D."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.networks.blocks.layers import make_conv

SLOPE = 0.2
RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and all outputs before it (Wang et al. 2018, Figure 4).

    The first four add `growth` channels each, through a leaky ReLU; the last maps back to `channels` and is added to
    the input with a factor of 0.2.

    Args:
        spatial_dims: 2 or 3.
        channels: C, in and out.
        growth: channels that each of the first four convolutions adds.
    """

    def __init__(self, spatial_dims: int, channels: int, growth: int) -> None:
        super().__init__()
        self.grow = nn.ModuleList(make_conv(spatial_dims, channels + n * growth, growth, 3) for n in range(4))
        self.merge = make_conv(spatial_dims, channels + 4 * growth, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B, C, *S) to (B, C, *S)."""
        features = x  # (B, C, *S)
        for conv in self.grow:
            added = F.leaky_relu(conv(features), SLOPE, inplace=True)  # (B, G, *S)
            features = torch.cat([features, added], dim=1)  # (B, C + n G, *S)
        return torch.add(x, self.merge(features), alpha=RESIDUAL_SCALE)  # (B, C, *S)


class RRDB(nn.Module):
    """Three dense blocks in a row, added to the input with a factor of 0.2 (Wang et al. 2018); no norm.

    Args:
        spatial_dims: 2 or 3.
        channels: C, in and out.
        growth: see `DenseBlock`.
    """

    def __init__(self, spatial_dims: int, channels: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(spatial_dims, channels, growth) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (B, C, *S) to (B, C, *S)."""
        return torch.add(x, self.dense(x), alpha=RESIDUAL_SCALE)  # (B, C, *S)
