"""A transformer layer over the voxels of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.errors import SpecError


class SelfAttention(nn.Module):
    """Multi-head self-attention through `scaled_dot_product_attention`: memory linear in the number of tokens.

    Args:
        channels: features of a token, C.
        num_heads: H.
        head_dim: features of a head; the paper's are wider than C / H (64 at C = 256, H = 8).
    """

    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(channels, 3 * num_heads * head_dim)
        self.to_out = nn.Linear(num_heads * head_dim, channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attend over tokens (B, N, C); returns (B, N, C)."""
        q, k, v = self.to_qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
        h = F.scaled_dot_product_attention(q, k, v)  # (B, H, N, D)
        return self.to_out(h.transpose(1, 2).flatten(2))  # (B, N, C)


class BottleneckTransformer(nn.Module):
    """One transformer layer with a learned position embedding, as in the bottleneck of Fu et al. (2023), Figure 2.

    The layer norm follows each sub-layer, before its residual sum, and a last one ends the block. The position
    embedding is learned on a grid of `token_grid` and interpolated linearly to any other.

    Args:
        spatial_dims: 2 or 3.
        channels: C.
        token_grid: number of tokens along each axis at the size that the network is trained with.
        num_heads: heads of the attention (paper: 8).
        head_dim: features of a head (release: C / 4, that is 64).
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        *,
        token_grid: Sequence[int],
        num_heads: int = 8,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        if len(token_grid) != spatial_dims:
            msg = f"token_grid must have {spatial_dims} entries, one per axis, got {tuple(token_grid)}"
            raise SpecError(msg)
        self.position = nn.Parameter(torch.empty(1, channels, *token_grid))
        self.attention = SelfAttention(channels, num_heads, head_dim or channels // 4)
        self.attention_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(approximate="tanh"), nn.Linear(4 * channels, channels)
        )
        self.mlp_norm = nn.LayerNorm(channels)
        self.out_norm = nn.LayerNorm(channels)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a feature map (B, C, *S) to (B, C, *S)."""
        h = (x + self._position_at(x.shape[2:])).flatten(2).transpose(1, 2)  # (B, N, C)
        h = h + self.attention_norm(self.attention(h))  # (B, N, C)
        h = h + self.mlp_norm(self.mlp(h))  # (B, N, C)
        return self.out_norm(h).transpose(1, 2).reshape(x.shape)  # (B, C, *S)

    def _position_at(self, grid: Sequence[int]) -> torch.Tensor:
        if tuple(grid) == tuple(self.position.shape[2:]):
            return self.position
        mode = "bilinear" if self.position.ndim == 4 else "trilinear"
        return F.interpolate(self.position, size=tuple(grid), mode=mode, align_corners=False)  # (1, C, *S)
