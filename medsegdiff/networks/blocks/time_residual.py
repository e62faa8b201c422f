"""The residual block of SegDiff's U-Net, to which the time is added, and the embeddings of that time."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.group_norm import make_group_norm
from medsegdiff.networks.blocks.layers import make_conv
from medsegdiff.networks.blocks.time_embedding import TimeEmbedding
from medsegdiff.networks.blocks.zero_init import zeroed

MAX_PERIOD = 10_000
TIME_EMBEDDINGS = ("sinusoid", "table")


class TimeResidualBlock(nn.Module):
    """Twice (group norm, SiLU, conv) with the time added in between, and a shortcut (Amit et al. 2021, section 4.3).

    The second convolution starts at zero, so that an untrained block is its shortcut: the identity, or a convolution
    of kernel one where the number of channels changes. The time is added in front of a group norm over several
    channels, which keeps what differs between them (see `make_group_norm`).

    Args:
        spatial_dims: 2 or 3.
        in_channels: C, channels of the input.
        out_channels: D, channels of the output.
        time_dim: features E of the time embedding; 0 for a block without time.
        time_layers: how the embedding is projected: 1 is SiLU and a linear layer, for an embedding that has gone
            through layers already (release); 2 is linear, SiLU, linear (paper).
        dropout: probability of zeroing an activation in front of the second convolution.
        min_group_size: see `make_group_norm`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        time_dim: int = 0,
        time_layers: int = 1,
        dropout: float = 0.0,
        min_group_size: int = 4,
    ) -> None:
        super().__init__()
        self.norm1 = make_group_norm(in_channels, min_group_size=min_group_size)
        self.conv1 = make_conv(spatial_dims, in_channels, out_channels, 3)
        self.time_projection = _make_projection(time_dim, out_channels, time_layers) if time_dim else None
        self.norm2 = make_group_norm(out_channels, min_group_size=min_group_size)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = zeroed(make_conv(spatial_dims, out_channels, out_channels, 3))
        self.activation = nn.SiLU()
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else make_conv(spatial_dims, in_channels, out_channels, 1)
        )

    def forward(self, x: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """Map features x (B, C, *S) and, with a time dimension, the embedding time (B, E) to (B, D, *S)."""
        h = self.conv1(self.activation(self.norm1(x)))  # (B, D, *S)
        if self.time_projection is not None:
            shift = self.time_projection(time)  # (B, D)
            h = h + shift.view(*shift.shape, *(1,) * (x.ndim - 2)).to(h.dtype)  # (B, D, *S)
        h = self.conv2(self.dropout(self.activation(self.norm2(h))))  # (B, D, *S)
        return self.shortcut(x) + h  # (B, D, *S)


class TimeMLP(nn.Module):
    """Sinusoids of the time through two linear layers, which all blocks share (the release's embedding).

    Args:
        time_dim: features E, a multiple of 8; a quarter of them are sinusoids.
    """

    def __init__(self, time_dim: int) -> None:
        super().__init__()
        # With as many time steps as the longest period, the times 1, 2, … enter as they are, not stretched to T.
        self.sinusoid = TimeEmbedding(time_dim // 4, MAX_PERIOD, max_period=MAX_PERIOD)
        self.layers = nn.Sequential(nn.Linear(time_dim // 4, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Embed 0-based time steps `t` of shape (B,) as (B, E)."""
        return self.layers(self.sinusoid(t))  # (B, E)


def make_time_embedding(name: str, num_train_timesteps: int, time_dim: int) -> nn.Module:
    """Maps 0-based time steps (B,) to embeddings: "sinusoid" (B, time_dim), or "table" (B, time_dim / 4).

    A table holds one learned vector for each of the T times and is meant for blocks with two layers of their own.

    Raises:
        SpecError: no such embedding, or a `time_dim` that is no multiple of 8.
    """
    if name not in TIME_EMBEDDINGS:
        msg = f"time_embedding {name!r} does not exist; use one of {', '.join(TIME_EMBEDDINGS)}"
        raise SpecError(msg)
    if time_dim < 8 or time_dim % 8:
        msg = f"time_dim is {time_dim}; give a multiple of 8: a quarter of it is half sines and half cosines"
        raise SpecError(msg)
    return TimeMLP(time_dim) if name == "sinusoid" else nn.Embedding(num_train_timesteps, time_dim // 4)


def _make_projection(time_dim: int, channels: int, layers: int) -> nn.Sequential:
    first = [nn.Linear(time_dim, time_dim)] if layers == 2 else []
    return nn.Sequential(*first, nn.SiLU(), nn.Linear(time_dim, channels))
