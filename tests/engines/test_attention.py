"""The attention map: which features, where, and how scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.engines.attention import attention_map, layer_factor
from medsegdiff.engines.noisy_pairs import NoisyPair
from medsegdiff.errors import SpecError
from medsegdiff.networks.nets.cdal_discriminator import CDALDiscriminator

SIZE = (8, 12, 4)
both_dims = pytest.mark.parametrize("dims", [2, 3])


def pair_of(size: tuple[int, ...], batch: int = 2) -> NoisyPair:
    x_prev, x_t = torch.randn(2, batch, 2, *size)
    return NoisyPair(x_prev, x_t, torch.randint(4, (batch,)), torch.zeros(()))


class Fixed(nn.Module):
    """A discriminator of given features, two and four times smaller than its input."""

    factors = (2, 4)

    def __init__(self, half: torch.Tensor) -> None:
        super().__init__()
        self.half = half

    def features(self, *_: Any, down_to: int) -> dict[int, torch.Tensor]:
        return {2: self.half, 4: self.half[(..., *[slice(None, None, 2)] * (self.half.ndim - 2))]}


@both_dims
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_it_is_the_mean_over_channels_carried_to_the_grid_of_the_mask(dims, factor):
    discriminator, pair = CDALDiscriminator(dims, 2, channels=(4, 6, 8), time_dim=8), pair_of(SIZE[:dims])
    features = discriminator.features(pair.x_prev, pair.x_t, pair.t)[factor]
    assert tuple(features.shape[2:]) == tuple(n // factor for n in SIZE[:dims])
    mode = "bilinear" if dims == 2 else "trilinear"
    expected = F.interpolate(features.mean(dim=1, keepdim=True), size=SIZE[:dims], mode=mode)
    attention = attention_map(discriminator, pair, layer=f"1/{factor}")
    assert attention.shape == (2, 1, *SIZE[:dims])
    assert attention.dtype == torch.float32
    assert not attention.requires_grad
    torch.testing.assert_close(attention, expected)


@both_dims
def test_sizes_that_do_not_divide_keep_the_map_in_place(dims):
    """A map over 8 voxels is a map over 7 of which the last is cut off."""
    half = torch.randn(1, 3, *[4] * dims)
    whole = attention_map(Fixed(half), pair_of((8,) * dims, 1), layer="1/2")
    cut = attention_map(Fixed(half), pair_of((7,) * dims, 1), layer="1/2")
    torch.testing.assert_close(cut, whole[(..., *[slice(0, 7)] * dims)])


@both_dims
def test_normalised_maps_have_their_range(dims):
    half = torch.randn(2, 3, *[4] * dims) * torch.tensor([1.0, 1e-4]).view(2, *(1,) * (dims + 1))
    fixed, pair = Fixed(half), pair_of((8,) * dims)
    plain = attention_map(fixed, pair, layer="1/2").flatten(1)
    ranged = attention_map(fixed, pair, layer="1/2", normalise="min_max").flatten(1)
    assert ranged.amin(dim=1).tolist() == [0, 0]
    assert ranged.amax(dim=1).tolist() == [1, 1]
    mean = attention_map(fixed, pair, layer="1/2", normalise="unit_mean").flatten(1)
    torch.testing.assert_close(mean.abs().mean(dim=1), torch.ones(2))
    assert torch.equal(mean.sign(), plain.sign())
    for one, raw in zip((*ranged, *mean), (*plain, *plain), strict=True):  # straight lines of the plain map
        assert torch.corrcoef(torch.stack([one, raw]))[0, 1].item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("normalise", ["min_max", "unit_mean"])
def test_a_map_of_zeros_attends_everywhere_alike(normalise):
    attention = attention_map(Fixed(torch.zeros(1, 3, 4, 4)), pair_of((8, 8), 1), layer="1/2", normalise=normalise)
    assert torch.equal(attention, torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("layer", "factor"), [("1/1", 1), ("1/8", 8), ("1/32", 32), (256, 1), (64, 4), (32, 8), (16, 16), (8, 32)]
)
def test_layers_are_named_by_share_or_by_length(layer, factor):
    assert layer_factor(layer, [1, 2, 4, 8, 16, 32], (256, 256)) == factor


def test_the_longest_axis_gives_the_length():
    factors = [1, 2, 4]
    assert layer_factor(28, factors, (40, 56, 40)) == 2
    assert layer_factor(14, factors, (39, 55, 40)) == 4  # rounded up


@pytest.mark.parametrize("layer", ["1/3", "1/16", 20, "32", 10])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(layer):
    message = r"has no layer .*; use one of 1/1 \(40 x 56\), 1/2 \(20 x 28\), 1/4 \(10 x 14\), or the longest axis"
    with pytest.raises(SpecError, match=message):
        layer_factor(layer, [1, 2, 4], (40, 56))


def test_a_normalisation_that_does_not_exist_is_refused():
    with pytest.raises(SpecError, match="normalise 'sigmoid' does not exist; use one of none, min_max, unit_mean"):
        attention_map(Fixed(torch.zeros(1, 1, 2, 2)), pair_of((4, 4), 1), layer="1/2", normalise="sigmoid")
