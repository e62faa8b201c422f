"""Self-attention over the voxels of a feature map, as a residual block."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.group_norm import make_group_norm
from medsegdiff.networks.blocks.transformer import SelfAttention
from medsegdiff.networks.blocks.zero_init import zeroed


class AttentionBlock(nn.Module):
    """Group norm and multi-head self-attention, added to the input (Nichol & Dhariwal 2021, section 3).

    The output projection starts at zero: an untrained block is the identity. There is no position embedding; memory
    is linear in the number of voxels.

    Args:
        channels: C, in and out.
        num_heads: heads, of C / num_heads features each.
        min_group_size: see `make_group_norm`.

    Raises:
        SpecError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int, *, min_group_size: int = 4) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            msg = f"num_heads is {num_heads} for {channels} channels; give a number that divides them"
            raise SpecError(msg)
        self.norm = make_group_norm(channels, min_group_size=min_group_size)
        self.attention = SelfAttention(channels, num_heads, channels // num_heads)
        zeroed(self.attention.to_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a feature map (B, C, *S) to (B, C, *S)."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        return x + self.attention(tokens).transpose(1, 2).reshape(x.shape)  # (B, C, *S)
