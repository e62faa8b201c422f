"""From a latent z to the style that the norms of cDAL's generator take."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.networks.blocks.glorot import glorot


class LatentMapping(nn.Module):
    """z scaled to unit mean square, then linear layers with SiLU (the mapping network of Karras et al. 2019).

    Args:
        latent_dim: features of z.
        style_dim: features of the style.
        layers: layers behind the first.
    """

    def __init__(self, latent_dim: int, style_dim: int, *, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for features in (latent_dim, *[style_dim] * layers):
            self.layers.append(glorot(nn.Linear(features, style_dim)))
            self.layers.append(nn.SiLU())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map latents z (B, latent_dim) to styles (B, style_dim)."""
        z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)  # (B, latent_dim)
        return self.layers(z)  # (B, style_dim)
