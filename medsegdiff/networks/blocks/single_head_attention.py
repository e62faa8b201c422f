"""Self-attention with one head, as cDAL's generator has it."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.group_norm import make_group_norm
from medsegdiff.networks.blocks.transformer import SelfAttention
from medsegdiff.networks.blocks.zero_init import zeroed


class SingleHeadAttention(nn.Module):
    """Group norm and self-attention over the voxels, added to the input, over sqrt(2) (Song et al. 2021).

    The output projection starts at zero.

    Args:
        channels: C, in and out, all in one head.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = make_group_norm(channels)
        self.norm.eps = 1e-6
        self.attention = glorot(SelfAttention(channels, 1, channels))
        zeroed(self.attention.to_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a feature map (B, C, *S) to (B, C, *S)."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        h = self.attention(tokens).transpose(1, 2).reshape(x.shape)  # (B, C, *S)
        return (x + h) * 0.5**0.5  # (B, C, *S)
