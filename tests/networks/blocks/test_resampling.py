"""Halving and doubling."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.networks.blocks.resampling import make_downsample, make_upsample


@pytest.mark.parametrize(("size", "half"), [((8, 6), (4, 3)), ((7, 1), (4, 1)), ((4, 6, 2), (2, 3, 1))])
def test_downsampling_takes_every_second_place_of_a_convolution(size, half):
    down = make_downsample(len(size), 3, 5)
    x = torch.randn(2, 3, *size)
    assert down(x).shape == (2, 5, *half)
    down_everywhere = torch.nn.functional.conv2d if len(size) == 2 else torch.nn.functional.conv3d
    everywhere = down_everywhere(x, down.weight, down.bias, padding=1)
    second = (..., *(slice(None, None, 2) for _ in size))
    torch.testing.assert_close(down(x), everywhere[second])


@pytest.mark.parametrize("size", [(3, 2), (3, 2, 1)])
def test_upsampling_repeats_each_value_and_convolves(size):
    up = make_upsample(len(size), 3)
    x = torch.randn(2, 3, *size)
    repeated = x
    for axis in range(2, x.ndim):
        repeated = repeated.repeat_interleave(2, dim=axis)
    assert up(x).shape == (2, 3, *(2 * n for n in size))
    torch.testing.assert_close(up(x), up[1](repeated))
