"""The residual block of the recycling U-Net, with a time conditioning that has an effect."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.networks.blocks.layers import make_conv, make_norm


class ResidualBlock(nn.Module):
    """Conv-norm-GELU-conv-norm with an identity shortcut; the time scales and shifts the second norm's output.

    The release of Fu et al. (2023) adds the time as a constant per channel just before an instance norm, which
    subtracts it again, so that its network does not see the time at all. Here the projected time embedding becomes a
    scale and a shift *behind* the norm (Dhariwal & Nichol 2021, "AdaGN"), which costs one more projection of C
    features a block and does condition.

    Args:
        spatial_dims: 2 or 3.
        channels: C, in and out.
        time_dim: features of the time embedding; 0 for a block without time.
        norm: see `medsegdiff.networks.blocks.layers.make_norm`.
        dropout: probability of zeroing a whole feature map between the convolutions.
    """

    def __init__(
        self, spatial_dims: int, channels: int, *, time_dim: int = 0, norm: str = "instance", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.conv1 = make_conv(spatial_dims, channels, channels, 3, bias=False)
        self.norm1 = make_norm(norm, spatial_dims, channels)
        self.conv2 = make_conv(spatial_dims, channels, channels, 3, bias=False)
        self.norm2 = make_norm(norm, spatial_dims, channels)
        self.time_projection = nn.Linear(time_dim, 2 * channels) if time_dim else None
        self.activation = nn.GELU(approximate="tanh")
        self.dropout = (nn.Dropout2d if spatial_dims == 2 else nn.Dropout3d)(dropout) if dropout else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """Map features x (B, C, *S) and, with a time dimension, activated embedding time (B, E) to (B, C, *S)."""
        h = self.activation(self.norm1(self.conv1(x)))  # (B, C, *S)
        h = self.norm2(self.conv2(self.dropout(h)))  # (B, C, *S)
        if self.time_projection is not None:
            scale, shift = self.time_projection(time).chunk(2, dim=1)  # (B, C) each
            broadcast = (*scale.shape, *(1,) * (x.ndim - 2))
            h = torch.addcmul(shift.view(broadcast).to(h.dtype), h, 1 + scale.view(broadcast).to(h.dtype))  # (B, C, *S)
        return self.activation(x + h)  # (B, C, *S)
