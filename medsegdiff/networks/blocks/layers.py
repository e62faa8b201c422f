"""Norms and convolutions that know the number of spatial dimensions."""

from __future__ import annotations

from typing import Any

from monai.networks.layers.factories import Conv
from torch import nn

from medsegdiff.errors import SpecError

NORMS = ("instance", "group")
GROUP_SIZE = 8


def make_norm(norm: str, spatial_dims: int, channels: int) -> nn.Module:
    """An affine norm over `channels`: "instance" (the recycling paper's) or "group" (groups of eight channels).

    Raises:
        SpecError: `norm` is neither, or the channels do not fill groups of eight.
    """
    if norm == "instance":
        return (nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d)(channels, affine=True)
    if norm == "group":
        if channels > GROUP_SIZE and channels % GROUP_SIZE:
            msg = f"got {channels} channels for a group norm; give at most 8, a multiple of 8, or use norm 'instance'"
            raise SpecError(msg)
        return nn.GroupNorm(max(1, channels // GROUP_SIZE), channels)
    msg = f"norm {norm!r} does not exist; use one of {', '.join(NORMS)}"
    raise SpecError(msg)


def make_conv(spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Module:
    """A convolution in 2-D or 3-D that keeps the size at stride one (odd kernels)."""
    padding = options.pop("padding", kernel_size // 2)
    return Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size, padding=padding, **options)


def make_up_conv(spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
    """A transposed convolution of kernel and stride two: doubles the size."""
    return Conv[Conv.CONVTRANS, spatial_dims](in_channels, out_channels, 2, stride=2, **options)
