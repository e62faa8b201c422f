"""Norms and convolutions in 2-D and 3-D."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.layers import make_conv, make_norm, make_up_conv


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_before_an_instance_norm_has_no_effect(dims):
    """Why time is not added in front of a norm: the norm subtracts it again."""
    norm = make_norm("instance", dims, 4)
    x = torch.randn(2, 4, *(5, 6, 7)[:dims])
    constant = torch.randn(2, 4, *(1,) * dims)
    torch.testing.assert_close(norm(x + constant), norm(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 1), (32, 4), (96, 12)])
def test_a_group_norm_has_groups_of_eight_channels(dims, channels, groups):
    norm = make_norm("group", dims, channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups
    assert norm.weight.shape == (channels,)


def test_a_width_that_groups_of_eight_do_not_fill_is_refused():
    with pytest.raises(SpecError, match="got 28 channels for a group norm; give at most 8, a multiple of 8"):
        make_norm("group", 2, 28)


def test_an_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match="norm 'batch' does not exist; use one of instance, group"):
        make_norm("batch", 2, 8)


@pytest.mark.parametrize("dims", [2, 3])
def test_convolutions_keep_and_double_the_size(dims):
    size = (5, 6, 7)[:dims]
    x = torch.randn(1, 3, *size)
    assert make_conv(dims, 3, 2, 3)(x).shape == (1, 2, *size)
    assert make_conv(dims, 3, 2, 1)(x).shape == (1, 2, *size)
    assert make_conv(dims, 3, 2, 2, stride=2, padding=0)(x).shape == (1, 2, *(n // 2 for n in size))
    assert make_up_conv(dims, 3, 2)(x).shape == (1, 2, *(2 * n for n in size))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_in_bf16_are_those_of_float32_up_to_rounding(depth):
    conv = make_conv(3, 16, 16, 3)
    x = torch.randn(2, 16, depth, 4, 4)
    wanted = torch.autograd.grad(conv(x).square().mean(), conv.weight)[0]
    for _ in range(8):  # what is left uninitialised depends on what was in the memory before
        remains = [torch.full_like(conv.weight, float("nan")) for _ in range(8)]
        del remains
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = conv(x)
        assert output.dtype == torch.bfloat16
        (found,) = torch.autograd.grad(output.float().square().mean(), conv.weight)
        assert (found - wanted).norm() < 0.02 * wanted.norm()
