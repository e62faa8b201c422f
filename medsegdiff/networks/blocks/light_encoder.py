"""cDAL's image encoder, a twentieth of SegDiff's."""

from __future__ import annotations

from math import prod

import torch
from torch import nn

from medsegdiff.networks.blocks.checkpointing import call
from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.group_norm import make_group_norm
from medsegdiff.networks.blocks.layers import make_conv
from medsegdiff.networks.blocks.padding import crop_to, pad_at_end
from medsegdiff.networks.blocks.zero_init import zeroed


class LightEncoder(nn.Module):
    """One convolution and a few residual blocks at full resolution (Hejrati et al. 2024, section 3.4).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: C, channels of the features.
        num_blocks: residual blocks (release: 5 for MoNuSeg, 6 for chest X-ray and hippocampus).
        gradient_checkpointing: recompute activations of every block in the backward pass, to save memory.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        num_blocks: int = 5,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.first = glorot(make_conv(spatial_dims, in_channels, out_channels, 3))
        self.blocks = nn.ModuleList(_EncoderBlock(spatial_dims, out_channels) for _ in range(num_blocks))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (B, image channels, *S) of any size to features (B, C, *S)."""
        size = image.shape[2:]
        if prod(size) == 1:  # a norm of one channel a group has nothing to normalise there
            image = pad_at_end(image, [1] * len(size))
        h = self.first(image)  # (B, C, *S)
        for block in self.blocks:
            h = call(block, h, recompute=self.gradient_checkpointing)  # (B, C, *S)
        return crop_to(h, size)


class _EncoderBlock(nn.Module):
    """Twice (group norm, SiLU, conv), added to the input; an untrained block is the identity."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        # 32 groups at any width, as in the release: no time is added here that an instance norm could take away.
        self.norm1 = make_group_norm(channels, min_group_size=1)
        self.conv1 = glorot(make_conv(spatial_dims, channels, channels, 3))
        self.norm2 = make_group_norm(channels, min_group_size=1)
        self.conv2 = zeroed(make_conv(spatial_dims, channels, channels, 3))
        self.activation = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.activation(self.norm1(x)))  # (B, C, *S)
        return x + self.conv2(self.activation(self.norm2(h)))  # (B, C, *S)
