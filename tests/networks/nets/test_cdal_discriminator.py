"""The discriminator of cDAL: logits, features by size, and slopes of slopes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.losses.adversarial import r1_penalty
from medsegdiff.networks.nets.cdal_discriminator import CDALDiscriminator
from tests.networks.nets.contract import SIZE, awakened, both_dims, largest_difference


def tiny(dims: int, **options: Any) -> CDALDiscriminator:
    settings: dict[str, Any] = {"channels": (4, 8, 8), "time_dim": 8, "normal_init": False, **options}
    return awakened(CDALDiscriminator(dims, 2, **settings))


def inputs(dims: int, batch: int = 4) -> dict[str, torch.Tensor]:
    return {
        "x_prev": torch.randn(batch, 2, *SIZE[:dims]),
        "x_t": torch.randn(batch, 2, *SIZE[:dims]),
        "t": torch.randint(4, (batch,)),
    }


@both_dims
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6, 7, 8])
def test_there_is_one_logit_a_sample_for_any_batch(dims, batch):
    logits = tiny(dims)(**inputs(dims, batch))
    assert logits.shape == (batch,)
    assert torch.isfinite(logits).all()


@both_dims
def test_both_masks_their_order_and_the_time_count(dims):
    network, given = tiny(dims), inputs(dims)
    logits = network(**given)
    changes = {
        "x_prev": {"x_prev": -given["x_prev"]},
        "x_t": {"x_t": -given["x_t"]},
        "t": {"t": 3 - given["t"]},
        "order": {"x_prev": given["x_t"], "x_t": given["x_prev"]},
    }
    for name, change in changes.items():
        assert largest_difference(logits, network(**{**given, **change})) > 1e-2, name


@both_dims
def test_samples_of_a_group_see_how_much_they_differ(dims):
    """A generator that gives one and the same mask to all is found out by it."""
    network, given = tiny(dims), inputs(dims)
    alike = {name: value[:1].expand(4, *value.shape[1:]) for name, value in given.items()}
    one = network(**{name: value[:1] for name, value in given.items()})
    torch.testing.assert_close(network(**alike), one.expand(4))
    assert largest_difference(network(**given)[:1], one) > 1e-3


@both_dims
def test_features_are_named_by_how_much_smaller_they_are(dims):
    network = tiny(dims)
    features = network.features(**inputs(dims))
    assert network.factors == [1, 2, 4]
    assert {f: h.shape[1] for f, h in features.items()} == {1: 4, 2: 8, 4: 8}
    for factor, h in features.items():
        assert tuple(h.shape[2:]) == tuple(-(-n // factor) for n in SIZE[:dims])


@both_dims
def test_features_are_those_that_the_logits_are_made_of(dims):
    network, given = tiny(dims), inputs(dims)
    outputs = []
    for module in (network.first, *network.blocks):
        module.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    network(**given)
    made, outputs[:] = list(outputs), []
    features = network.features(**given, down_to=2)
    assert list(features) == [1, 2]
    assert len(outputs) == 2  # the last block was spared
    for h, layer in zip(features.values(), made, strict=False):
        assert torch.equal(h, layer)


def test_of_several_layers_of_a_size_the_deepest_counts():
    network, given = tiny(2, channels=(4, 6, 8, 8), downsample=(False, True, False)), inputs(2)
    assert network.factors == [1, 2]
    time = network.activation(network.step_embedding(given["t"]))
    h = network.first(torch.cat([given["x_prev"], given["x_t"]], dim=1))
    for block in network.blocks:
        h = block(h, time)
    features = network.features(**given)
    assert features[1].shape[1] == 6
    torch.testing.assert_close(features[2], h)
    torch.testing.assert_close(network.features(**given, down_to=1)[1], features[1])


@both_dims
def test_a_block_is_what_it_says(dims):
    network = tiny(dims)
    (block, _), x, time = network.blocks, torch.randn(2, 4, 4, 6, 2)[(..., *[0] * (3 - dims))], torch.randn(2, 8)
    act = nn.LeakyReLU(0.2)
    h = act(block.conv1(act(x)) + block.time_projection(time).view(2, 8, *(1,) * dims))
    expected = (block.down(block.shortcut(x)) + block.conv2(block.down(h))) / 2**0.5
    torch.testing.assert_close(block(x, time), expected)


@both_dims
def test_the_penalty_of_its_slope_reaches_every_weight_that_shapes_it(dims):
    network, given = tiny(dims), inputs(dims)
    given["x_prev"].requires_grad_()
    r1_penalty(network(**given), given["x_prev"]).sum().backward()
    flat = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert flat <= {"head.bias", "last.bias"}  # the slope is the same whatever is added at the end
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_the_release_starts_all_convolutions_of_the_large_one_alike():
    large = CDALDiscriminator(2, 1, channels=(32, 64, 64), time_dim=16)
    convs = [m for m in large.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.weight.std().item() == pytest.approx(0.02, rel=0.3) for conv in convs)
    plain = CDALDiscriminator(2, 1, channels=(32, 64, 64), time_dim=16, normal_init=False)
    assert not any(block.conv2.weight.any() for block in plain.blocks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"downsample": (True,)}, "got 3 channels and 1 entries of downsample"),
        ({"time_dim": 7}, "must be even, got 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    settings = {"dims": 2, **settings}
    with pytest.raises(SpecError, match=message):
        tiny(**settings)


def test_masks_without_channels_are_refused():
    with pytest.raises(SpecError, match="mask_channels is 0; a discriminator judges masks of at least 1 channel"):
        CDALDiscriminator(2, 0)
