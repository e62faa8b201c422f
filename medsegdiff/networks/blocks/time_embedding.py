"""Sinusoidal embedding of the diffusion time."""

from __future__ import annotations

import math

import torch
from torch import nn

from medsegdiff.errors import SpecError


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the normalised time `(t + 1) / T`, without learned weights.

    The half of the frequencies is returned as cosines and the half as sines of `10000 * time * 10000^(-2i / dim)`,
    the embedding of Vaswani et al. (2017) over times stretched to (0, 10000].

    Args:
        embedding_dim: number of features E, even.
        num_train_timesteps: the schedule's T, so that `t = T - 1` is embedded as time 1.

    Raises:
        SpecError: an odd number of features.
    """

    def __init__(self, embedding_dim: int, num_train_timesteps: int, *, max_period: float = 10_000.0) -> None:
        super().__init__()
        if embedding_dim % 2:
            msg = f"the dimension of the time embedding must be even, got {embedding_dim}"
            raise SpecError(msg)
        self.embedding_dim = embedding_dim
        self.num_train_timesteps = num_train_timesteps
        self.max_period = max_period

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """Embed 0-based time steps `t` of shape (B,) as (B, E), float32."""
        half = self.embedding_dim // 2
        exponent = torch.arange(half, device=t.device, dtype=torch.float32) / half  # (E/2,)
        frequencies = torch.exp(-math.log(self.max_period) * exponent)  # (E/2,)
        time = (t.float() + 1.0) / self.num_train_timesteps  # (B,)
        angles = self.max_period * time[:, None] * frequencies[None]  # (B, E/2)
        return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, E)
