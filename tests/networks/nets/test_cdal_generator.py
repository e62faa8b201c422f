"""The generator of cDAL: what it starts as, what its output depends on, and its latent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.padding import crop_to, pad_at_end
from medsegdiff.networks.blocks.single_head_attention import SingleHeadAttention
from medsegdiff.networks.nets.cdal_generator import CDALGenerator
from tests.networks.nets.contract import SIZE, DenoiserContract, awakened, both_dims, largest_difference


def tiny(dims: int, *, mask_channels: int = 3, out_channels: int | None = None, **options: Any) -> CDALGenerator:
    settings: dict[str, Any] = {
        "channels": (8, 8, 16),
        "num_res_blocks": 1,
        "attention_levels": (1,),
        "encoder_blocks": 1,
        "latent_dim": 5,
        "style_dim": 8,
        "mapping_layers": 1,
        **options,
    }
    return CDALGenerator(dims, 2, mask_channels, out_channels or mask_channels or 2, **settings)


def awake(dims: int, **options: Any) -> CDALGenerator:
    return awakened(tiny(dims, **options)).eval()


def inputs(dims: int, batch: int = 2, masks: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = SIZE[:dims]
    return torch.randn(batch, masks, *size), torch.randint(4, (batch,)), torch.randn(batch, 2, *size)


class TestCDALGenerator(DenoiserContract):
    def make(self, dims: int, **options: Any) -> CDALGenerator:
        return tiny(dims, **options)


class TestWithoutLatent(DenoiserContract):
    supervised = checkpointing = False  # as above

    def make(self, dims: int, **options: Any) -> CDALGenerator:
        return tiny(dims, latent=False, **options)


@both_dims
def test_the_untrained_network_gives_zero(dims):
    network = tiny(dims)
    x_t, t, image = inputs(dims)
    assert not network(x_t, t, network.encode(image), z=torch.randn(2, 5)).any()


@both_dims
def test_padding_inside_equals_padding_outside(dims):
    network, z = awake(dims), torch.randn(2, 5)
    x_t, t, image = inputs(dims)
    condition = network.encode(image)
    amounts = [8 - n for n in SIZE[:dims]]
    outside = network(pad_at_end(x_t, amounts), t, pad_at_end(condition, amounts), z=z)
    torch.testing.assert_close(network(x_t, t, condition, z=z), crop_to(outside, SIZE[:dims]))


@both_dims
def test_a_condition_lies_on_the_grid_of_its_image(dims):
    image = torch.randn(2, 2, *SIZE[:dims])
    assert tiny(dims).encode(image).shape == (2, 8, *SIZE[:dims])


@both_dims
def test_a_network_with_a_latent_refuses_to_go_without(dims):
    network = tiny(dims)
    x_t, t, image = inputs(dims)
    condition = network.encode(image)
    assert network.latent_dim == 5
    with pytest.raises(SpecError, match="takes a latent of 5 features at every call, got none; give z"):
        network(x_t, t, condition)
    with pytest.raises(SpecError, match="takes a latent of 5 features at every call, got one of 4; give z"):
        network(x_t, t, condition, z=torch.randn(2, 4))


@both_dims
def test_without_latent_every_norm_is_affine_and_no_z_is_needed(dims):
    network = tiny(dims, latent=False)
    assert network.latent_dim == 0
    assert network.mapping is None
    assert all(module.affine for module in network.modules() if isinstance(module, nn.GroupNorm))
    x_t, t, image = inputs(dims)
    assert network(x_t, t, network.encode(image)).shape == x_t.shape


@both_dims
def test_the_latent_reaches_both_norms_of_every_block(dims):
    network = tiny(dims)
    blocks = [*network.encoder[0], *network.down, *network.bottom, *network.decoder[0], *network.up]
    assert all(norm.to_style is not None for block in blocks for norm in (block.norm1, block.norm2))


@both_dims
def test_the_mask_enters_at_every_coarser_level(dims):
    """With the encoder cut off at full resolution, x_t still reaches the bottom through the pyramid."""
    network = awake(dims)
    seen = []
    network.bottom[0].register_forward_hook(lambda _m, given, _out: seen.append(given[0]))
    nn.init.zeros_(network.mask_encoder.weight)
    x_t, t, image = inputs(dims)
    for mask in (x_t, -x_t):
        network(mask, t, network.encode(image), z=torch.ones(2, 5))
    assert largest_difference(*seen) > 1e-2
    assert [layer.conv.in_channels for layer in network.pyramid] == [3, 8]


@both_dims
def test_a_mask_gain_of_zero_starts_blind_to_the_mask_and_learns_to_see_it(dims):
    network, blind = awake(dims), tiny(dims, mask_gain=0.0)
    entrances = {k: v for k, v in blind.state_dict().items() if k.startswith(("mask_encoder", "pyramid"))}
    network.load_state_dict(entrances, strict=False)
    x_t, t, image = inputs(dims)

    def outputs() -> list[torch.Tensor]:
        return [network(mask, t, network.encode(image), z=torch.ones(2, 5)) for mask in (x_t, -x_t)]

    torch.testing.assert_close(*outputs())
    outputs()[0].square().mean().backward()
    torch.optim.SGD([*network.mask_encoder.parameters(), *network.pyramid.parameters()], lr=0.1).step()
    assert largest_difference(*outputs()) > 1e-3


@both_dims
def test_every_skip_reaches_the_decoder(dims):
    """What the first layer gives alone still changes the output when all below is cut off."""
    network = awake(dims)
    for block in network.up:
        for parameter in block.parameters():
            nn.init.zeros_(parameter)
    x_t, t, image = inputs(dims)
    outputs = [network(mask, t, network.encode(image), z=torch.ones(2, 5)) for mask in (x_t, -x_t)]
    assert largest_difference(*outputs) > 1e-2


def test_attention_stands_where_it_is_asked_for_and_in_the_middle():
    network = tiny(2, num_res_blocks=2, attention_levels=(0, 2))
    kinds = [[isinstance(a, SingleHeadAttention) for a in level] for level in network.attention]
    assert kinds == [[True] * 2, [False] * 2, [True] * 2]
    assert [isinstance(a, SingleHeadAttention) for a in network.decoder_attention] == [True, False, True]
    assert isinstance(network.bottom_attention, SingleHeadAttention)


def test_levels_may_have_different_numbers_of_blocks():
    network = awake(2, num_res_blocks=(1, 3, 2))
    assert [len(level) for level in network.encoder] == [1, 3, 2]
    assert [len(level) for level in network.decoder] == [3, 4, 2]
    x_t, t, image = inputs(2)
    assert network(x_t, t, network.encode(image), z=torch.randn(2, 5)).shape == x_t.shape


def test_a_single_level_is_a_network_too():
    network = awake(2, channels=(8,), attention_levels=())
    x_t, t, image = inputs(2)
    assert network(x_t, t, network.encode(image), z=torch.randn(2, 5)).shape == x_t.shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"num_res_blocks": (1, 1)}, "num_res_blocks has 2 entries for 3 levels of channels; give one per level"),
        ({"num_res_blocks": 0}, "num_res_blocks is .* give 1 or more blocks"),
        ({"attention_levels": (1, 3)}, r"attention_levels holds \[3\]; the levels of this network are 0 to 2"),
        ({"latent_dim": 0}, "latent_dim is 0; give at least 1"),
        ({"style_dim": 0}, "style_dim is 0; give at least 1"),
        ({"encoder_blocks": -1}, "encoder_blocks is -1; give at least 0"),
        ({"mapping_layers": -1}, "mapping_layers is -1; give at least 0"),
        ({"channels": (7, 8, 8)}, "must be even, got 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    settings = {"dims": 2, **settings}
    with pytest.raises(SpecError, match=message):
        tiny(**settings)
