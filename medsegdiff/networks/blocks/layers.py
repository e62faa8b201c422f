"""Norms and convolutions that know the number of spatial dimensions."""

from __future__ import annotations

from typing import Any

import torch
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


class Conv3d(nn.Conv3d):
    """`torch.nn.Conv3d` that trains right in bf16 on CPUs whatever the size of its input.

    With a kernel of 3 and two voxels along the first axis, oneDNN leaves parts of the bf16 gradient of the weights
    uninitialised on CPUs with AVX-512 BF16 but without AMX (seen on AMD EPYC, torch 2.13): NaN, or wrong numbers.
    There this layer computes in float32. To be dropped when its test passes with `torch.nn.Conv3d`.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve (B, C_in, *S) into (B, C_out, *S')."""
        concerned = input.device.type == "cpu" and input.shape[2] == 2 and torch.is_grad_enabled()
        if not concerned or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)  # (B, C_out, *S')
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))  # (B, C_out, *S')


def trained_right(network: nn.Module) -> nn.Module:
    """The network, of another library, with every 3-D convolution turned into this module's `Conv3d`, in place."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d
    return network


def make_conv(spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> nn.Module:
    """A convolution in 2-D or 3-D that keeps the size at stride one (odd kernels)."""
    padding = options.pop("padding", kernel_size // 2)
    kind = nn.Conv2d if spatial_dims == 2 else Conv3d
    return kind(in_channels, out_channels, kernel_size, padding=padding, **options)


def make_up_conv(spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
    """A transposed convolution of kernel and stride two: doubles the size."""
    return Conv[Conv.CONVTRANS, spatial_dims](in_channels, out_channels, 2, stride=2, **options)
