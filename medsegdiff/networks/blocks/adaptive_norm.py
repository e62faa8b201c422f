"""Group norm whose scale and shift come from a latent."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.group_norm import make_group_norm


class AdaptiveGroupNorm(nn.Module):
    """Group norm followed by gamma(w) h + beta(w), both linear in a style w (Xiao et al. 2022, after Karras et al.).

    gamma starts around 1 and beta around 0. Without a style this is the plain affine group norm: cDAL's ablation
    "without latent".

    Args:
        channels: C; the norm has C / 4 groups, 32 at most.
        style_dim: features of the style; 0 for none.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        groups = make_group_norm(channels).num_groups
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6, affine=not style_dim)
        self.to_style = glorot(nn.Linear(style_dim, 2 * channels)) if style_dim else None
        if self.to_style is not None:
            nn.init.ones_(self.to_style.bias[:channels])

    def forward(self, x: torch.Tensor, style: torch.Tensor | None) -> torch.Tensor:
        """Normalise features x (B, C, *S), with a style dimension under a style (B, E), to (B, C, *S)."""
        h = self.norm(x)  # (B, C, *S)
        if self.to_style is None:
            return h
        gamma, beta = self.to_style(style).to(h.dtype).chunk(2, dim=1)  # (B, C) each
        broadcast = (*gamma.shape, *(1,) * (x.ndim - 2))
        return torch.addcmul(beta.view(broadcast), h, gamma.view(broadcast))  # (B, C, *S)
