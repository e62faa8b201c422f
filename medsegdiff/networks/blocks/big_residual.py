"""The residual block of cDAL's generator, in which time, latent and resampling come together."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.adaptive_norm import AdaptiveGroupNorm
from medsegdiff.networks.blocks.fir import FIRDownsample, FIRUpsample
from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.layers import make_conv
from medsegdiff.networks.blocks.zero_init import zeroed

RESAMPLINGS = ("none", "down", "up")


class BigResidualBlock(nn.Module):
    """Twice (adaptive norm, SiLU, conv) and a shortcut, their sum over sqrt(2) (Brock et al. 2019, Song et al. 2021).

    The latent reaches both norms as a style, the time is added between the convolutions. A block that resamples does
    so behind the first norm and in the shortcut. The second convolution starts at zero: an untrained block is its
    shortcut over sqrt(2).

    Args:
        spatial_dims: 2 or 3.
        in_channels: C.
        out_channels: D.
        time_dim: features of the time embedding; 0 for a block without time.
        style_dim: features of the style; 0 for a block without latent.
        resampling: "none", "down" (sizes halve) or "up" (they double).
        dropout: probability of zeroing an activation in front of the second convolution.

    Raises:
        SpecError: no such resampling.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        time_dim: int = 0,
        style_dim: int = 0,
        resampling: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if resampling not in RESAMPLINGS:
            msg = f"resampling {resampling!r} does not exist; use one of {', '.join(RESAMPLINGS)}"
            raise SpecError(msg)
        self.norm1 = AdaptiveGroupNorm(in_channels, style_dim)
        self.conv1 = glorot(make_conv(spatial_dims, in_channels, out_channels, 3))
        self.time_projection = glorot(nn.Linear(time_dim, out_channels)) if time_dim else None
        self.norm2 = AdaptiveGroupNorm(out_channels, style_dim)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = zeroed(make_conv(spatial_dims, out_channels, out_channels, 3))
        self.resample: nn.Module = nn.Identity()
        if resampling != "none":
            self.resample = (FIRDownsample if resampling == "down" else FIRUpsample)(spatial_dims)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or resampling != "none":
            self.shortcut = glorot(make_conv(spatial_dims, in_channels, out_channels, 1))
        self.activation = nn.SiLU()

    def forward(
        self, x: torch.Tensor, time: torch.Tensor | None = None, style: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map features x (B, C, *S) to (B, D, *S'), S' being S, its half or its double.

        Args:
            x: features (B, C, *S).
            time: activated embedding of the time (B, E), for a block with time.
            style: style of the latent (B, F), for a block with a latent.
        """
        h = self.activation(self.norm1(x, style))  # (B, C, *S)
        h = self.conv1(self.resample(h))  # (B, D, *S')
        if self.time_projection is not None:
            shift = self.time_projection(time)  # (B, D)
            h = h + shift.view(*shift.shape, *(1,) * (x.ndim - 2)).to(h.dtype)  # (B, D, *S')
        h = self.activation(self.norm2(h, style))  # (B, D, *S')
        h = self.conv2(self.dropout(h))  # (B, D, *S')
        return (self.shortcut(self.resample(x)) + h) * 0.5**0.5  # (B, D, *S')
