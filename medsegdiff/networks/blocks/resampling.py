"""Halving and doubling the size of a feature map with learned convolutions."""

from __future__ import annotations

from torch import nn

from medsegdiff.networks.blocks.layers import make_conv


def make_downsample(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """A convolution of kernel three and stride two: (B, C, *S) to (B, D, *S/2), odd sizes rounded up."""
    return make_conv(spatial_dims, in_channels, out_channels, 3, stride=2)


def make_upsample(spatial_dims: int, channels: int) -> nn.Module:
    """Each value repeated to twice the size, then a convolution of kernel three: (B, C, *S) to (B, C, *2S)."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), make_conv(spatial_dims, channels, channels, 3))
