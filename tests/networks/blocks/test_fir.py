"""Resampling through [1, 3, 3, 1]: gains, shifts, and what it is composed of."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medsegdiff.networks.blocks.fir import FIRDownsample, FIRStridedConv, FIRUpsample

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (8, 12, 10)


def inside(x: torch.Tensor, margin: int) -> torch.Tensor:
    return x[(..., *[slice(margin, -margin)] * (x.ndim - 2))]


def ramp(size: tuple[int, ...]) -> torch.Tensor:
    """A plane over the grid, (1, 2, *S), in which every axis has a slope of its own; the second channel is another."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij")
    plane = sum(slope * axis for slope, axis in zip((1.0, -0.5, 0.25), axes, strict=False))
    return torch.stack([plane, 3 - 2 * plane])[None]


@both_dims
def test_a_constant_stays_constant_away_from_the_border(dims):
    x = torch.full((1, 3, *SIZE[:dims]), 2.5)
    half, double = FIRDownsample(dims)(x), FIRUpsample(dims)(x)
    assert half.shape[2:] == tuple(n // 2 for n in SIZE[:dims])
    assert double.shape[2:] == tuple(2 * n for n in SIZE[:dims])
    torch.testing.assert_close(inside(half, 1), torch.full_like(inside(half, 1), 2.5))
    torch.testing.assert_close(inside(double, 1), torch.full_like(inside(double, 1), 2.5))
    assert half[0, 0].flatten()[0] < 2.5  # zeros lie outside


@both_dims
def test_a_plane_is_read_where_the_new_voxels_lie(dims):
    """Neither way shifts the picture: new voxels lie between, or a quarter off, the old ones."""
    x = ramp(SIZE[:dims])
    between = x
    for axis in range(2, x.ndim):
        even, odd = (between.index_select(axis, torch.arange(k, between.shape[axis], 2)) for k in (0, 1))
        between = (even + odd) / 2
    torch.testing.assert_close(inside(FIRDownsample(dims)(x), 1), inside(between, 1))
    mode = "bilinear" if dims == 2 else "trilinear"
    linear = F.interpolate(x, scale_factor=2, mode=mode, align_corners=False)
    torch.testing.assert_close(inside(FIRUpsample(dims)(x), 1), inside(linear, 1))
    # Hence up and down again gives the plane back, two voxels from the border.
    torch.testing.assert_close(inside(FIRDownsample(dims)(FIRUpsample(dims)(x)), 2), inside(x, 2))


@both_dims
def test_up_is_the_transpose_of_down(dims):
    x, y = torch.randn(2, 3, *SIZE[:dims]), torch.randn(2, 3, *[n // 2 for n in SIZE[:dims]])
    down, up = FIRDownsample(dims), FIRUpsample(dims)
    torch.testing.assert_close((down(x) * y).sum() * 2**dims, (x * up(y)).sum())


@both_dims
def test_the_finest_pattern_is_filtered_away(dims):
    """A checkerboard cannot be seen at half the size; keeping every second value would make a constant of it."""
    parity = sum(torch.meshgrid(*[torch.arange(n) for n in SIZE[:dims]], indexing="ij")) % 2
    half = FIRDownsample(dims)((2.0 * parity - 1)[None, None])
    torch.testing.assert_close(inside(half, 1), torch.zeros_like(inside(half, 1)))


@pytest.mark.parametrize("size", [(1, 1), (7, 2), (3, 1, 6)])
def test_odd_sizes_are_rounded_up(size):
    x = torch.randn(1, 2, *size)
    padded = F.pad(x, [amount for n in reversed(size) for amount in (0, n % 2)])
    half = FIRDownsample(len(size))(x)
    assert half.shape[2:] == tuple(-(-n // 2) for n in size)
    torch.testing.assert_close(half, FIRDownsample(len(size))(padded))


@both_dims
def test_channels_do_not_mix(dims):
    x = torch.randn(1, 2, *SIZE[:dims])
    for resample in (FIRDownsample(dims), FIRUpsample(dims)):
        torch.testing.assert_close(resample(x)[:, :1], resample(x[:, :1]))


@both_dims
def test_the_strided_convolution_sees_a_filtered_input(dims):
    layer = FIRStridedConv(dims, 2, 5)
    x = torch.randn(1, 2, *SIZE[:dims])
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = taps[:, None] * taps if dims == 2 else taps[:, None, None] * taps[:, None] * taps
    conv = F.conv2d if dims == 2 else F.conv3d
    blurred = torch.cat([conv(x[:, [c]], kernel[None, None], padding=2) for c in range(2)], dim=1)
    expected = conv(blurred, layer.conv.weight, layer.conv.bias, stride=2)
    assert expected.shape[2:] == tuple(n // 2 for n in SIZE[:dims])
    torch.testing.assert_close(layer(x), expected)


def test_the_kernel_is_no_weight():
    assert FIRDownsample(2).state_dict() == {}
    assert list(FIRUpsample(3).parameters()) == []
    assert set(FIRStridedConv(2, 1, 1).state_dict()) == {"conv.weight", "conv.bias"}
