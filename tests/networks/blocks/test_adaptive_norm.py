"""Group norm under a style."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.networks.blocks.adaptive_norm import AdaptiveGroupNorm

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (4, 6, 2)


@both_dims
def test_it_scales_and_shifts_a_norm_without_weights_of_its_own(dims):
    norm, x, style = AdaptiveGroupNorm(8, 5), torch.randn(3, 8, *SIZE[:dims]), torch.randn(3, 5)
    gamma, beta = norm.to_style(style).chunk(2, dim=1)
    column = (3, 8, *(1,) * dims)
    expected = F.group_norm(x, 2, eps=1e-6) * gamma.view(column) + beta.view(column)
    torch.testing.assert_close(norm(x, style), expected)
    assert {name for name, _ in norm.named_parameters()} == {"to_style.weight", "to_style.bias"}


def test_gamma_starts_around_one_and_beta_around_zero():
    norm, x = AdaptiveGroupNorm(16, 4), torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(norm(x, torch.zeros(2, 4)), F.group_norm(x, 4, eps=1e-6))


@both_dims
def test_without_style_it_is_the_affine_norm(dims):
    norm, x = AdaptiveGroupNorm(8, 0), torch.randn(2, 8, *SIZE[:dims])
    nn.init.normal_(norm.norm.weight)
    torch.testing.assert_close(norm(x, None), F.group_norm(x, 2, norm.norm.weight, norm.norm.bias, 1e-6))


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (4, 1), (8, 2), (24, 6), (100, 25), (128, 32), (512, 32), (36, 9)]
)
def test_groups_have_four_channels_or_more(channels, groups):
    assert AdaptiveGroupNorm(channels, 2).norm.num_groups == groups
