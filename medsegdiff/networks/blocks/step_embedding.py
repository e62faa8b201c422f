"""The embedding of the few time steps of cDAL, through learned layers."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.time_embedding import TimeEmbedding

MAX_PERIOD = 10_000


class StepEmbedding(nn.Module):
    """Sinusoids of the time step through two linear layers.

    The steps enter as whole numbers 1, 2, … and not as shares of T: with T of 2 or 4 there is nothing to interpolate.

    Args:
        sinusoid_dim: number of sinusoids, even.
        out_dim: features E.
        activation: between the two layers; what follows them is the reader's.

    Raises:
        SpecError: an odd number of sinusoids.
    """

    def __init__(self, sinusoid_dim: int, out_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.sinusoid = TimeEmbedding(sinusoid_dim, MAX_PERIOD, max_period=MAX_PERIOD)
        self.layers = nn.Sequential(
            glorot(nn.Linear(sinusoid_dim, out_dim)), activation, glorot(nn.Linear(out_dim, out_dim))
        )

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Embed 0-based time steps t (B,) as (B, E)."""
        return self.layers(self.sinusoid(t))  # (B, E)
