"""The network of SegDiff: what it starts as, what its output depends on, and its variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.attention import AttentionBlock
from medsegdiff.networks.blocks.padding import crop_to, pad_at_end
from medsegdiff.networks.nets.image_encoders import BasicUNetEncoder, RRDBEncoder
from medsegdiff.networks.nets.segdiff_unet import SegDiffUNet
from tests.networks.nets.contract import SIZE, TIMES, DenoiserContract, awakened, both_dims, largest_difference

VARIANTS: dict[str, dict[str, Any]] = {
    "sum": {},
    "concat_image": {"condition": "concat_image"},
    "sum_after_down": {"condition": "sum_after_down"},
    "concat_features": {"condition": "concat_features"},
    "basic_unet": {"image_encoder": "monai_basic_unet"},
    "table": {"time_embedding": "table"},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def tiny(dims: int, *, mask_channels: int = 3, out_channels: int | None = None, **options: Any) -> SegDiffUNet:
    settings: dict[str, Any] = {
        "channels": (8, 16, 16),
        "num_res_blocks": 1,
        "attention_levels": (1,),
        "num_heads": 2,
        "num_rrdbs": 1,
        "rrdb_channels": 4,
        "rrdb_growth": 2,
        "time_dim": 32,
        "num_train_timesteps": TIMES,
        **options,
    }
    return SegDiffUNet(dims, 2, mask_channels, out_channels or mask_channels or 2, **settings)


def awake(dims: int, **options: Any) -> SegDiffUNet:
    return awakened(tiny(dims, **options)).eval()


def inputs(dims: int, batch: int = 2, masks: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = SIZE[:dims]
    return torch.randn(batch, masks, *size), torch.randint(TIMES, (batch,)), torch.randn(batch, 2, *size)


class TestSegDiffUNet(DenoiserContract):
    def make(self, dims: int, **options: Any) -> SegDiffUNet:
        return tiny(dims, **options)


class TestTable(DenoiserContract):
    def make(self, dims: int, **options: Any) -> SegDiffUNet:
        return tiny(dims, time_embedding="table", **options)


@both_dims
@each_variant
def test_an_untrained_network_gives_exactly_zero(dims, variant):
    network = tiny(dims, **VARIANTS[variant])
    x_t, t, image = inputs(dims)
    assert not network(x_t, t, network.encode(image)).any()


@each_variant
def test_training_wakes_every_weight_up(variant):
    """The layers that start at zero hold the gradient of those behind them back for a step or two."""
    network = tiny(2, **VARIANTS[variant])
    x_t, t, image = inputs(2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.mse_loss(network(x_t, t, network.encode(image)), x_t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(x_t.square().mean().item())
    assert losses == sorted(losses, reverse=True)
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@each_variant
def test_every_variant_can_recompute_its_activations(variant):
    plain, saving = tiny(2, **VARIANTS[variant]), tiny(2, gradient_checkpointing=True, **VARIANTS[variant])
    awakened(plain)
    saving.load_state_dict(plain.state_dict())
    x_t, t, image = inputs(2)
    for network in (plain, saving):
        network(x_t, t, network.encode(image)).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@both_dims
@each_variant
def test_every_variant_reads_mask_time_and_image(dims, variant):
    masks = 1 if dims == 3 else 3
    network = awake(dims, mask_channels=masks, **VARIANTS[variant])
    x_t, t, image = inputs(dims, masks=masks)
    condition = network.encode(image)
    output = network(x_t, t, condition)
    assert output.shape == x_t.shape
    assert largest_difference(output, network(-x_t, t, condition)) > 1e-2
    assert largest_difference(output, network(x_t, (t + 10) % TIMES, condition)) > 1e-2
    assert largest_difference(output, network(x_t, t, network.encode(-image))) > 1e-2


@both_dims
@each_variant
def test_the_condition_lies_on_the_grid_of_the_image(dims, variant):
    network = awake(dims, **VARIANTS[variant])
    _, _, image = inputs(dims)
    condition = network.encode(image)
    assert condition.shape == (2, 2 if variant == "concat_image" else 8, *SIZE[:dims])
    if variant == "concat_image":
        assert torch.equal(condition, image)


@both_dims
def test_padding_inside_equals_padding_of_mask_and_condition_outside(dims):
    network = awake(dims)
    x_t, t, image = inputs(dims)
    condition = network.encode(image)
    amounts = [8 - n for n in SIZE[:dims]]
    outside = network(pad_at_end(x_t, amounts), t, pad_at_end(condition, amounts))
    torch.testing.assert_close(network(x_t, t, condition), crop_to(outside, SIZE[:dims]))


@both_dims
def test_the_two_encodings_are_summed(dims):
    """What F makes of a mask may as well come from G: only the sum enters E."""
    network = awake(dims)
    assert network.mask_encoder is not None
    size, t = [8] * dims, torch.tensor([3, 12])
    x_t, zeros, condition = torch.randn(2, 3, *size), torch.zeros(2, 3, *size), torch.randn(2, 8, *size)
    moved = condition + network.mask_encoder(x_t) - network.mask_encoder(zeros)
    torch.testing.assert_close(network(x_t, t, condition), network(zeros, t, moved), atol=1e-4, rtol=1e-4)


@both_dims
def test_after_the_first_downsampling_the_first_level_has_not_seen_the_image(dims):
    network = awake(dims, condition="sum_after_down")
    seen: list[torch.Tensor] = []
    network.down[0].register_forward_hook(lambda _, __, output: seen.append(output))
    network.encoder[1][0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x_t, t, image = inputs(dims)
    for one in (image, -image):
        network(x_t, t, network.encode(one))
    assert torch.equal(seen[0], seen[2])
    assert not torch.allclose(seen[1], seen[3])
    assert network.condition_down is not None
    condition = pad_at_end(network.encode(image), [-n % 4 for n in SIZE[:dims]])
    torch.testing.assert_close(seen[1], seen[0] + network.condition_down(condition))


@both_dims
def test_concatenated_features_enter_side_by_side(dims):
    network = awake(dims, condition="concat_features")
    entering: list[torch.Tensor] = []
    network.encoder[0][0].register_forward_pre_hook(lambda _, given: entering.append(given[0]))
    x_t, condition = torch.randn(1, 3, *[8] * dims), torch.randn(1, 8, *[8] * dims)
    network(x_t, torch.tensor([0]), condition)
    assert network.mask_encoder is not None
    torch.testing.assert_close(entering[0], torch.cat([network.mask_encoder(x_t), condition], dim=1))


@both_dims
def test_a_supervised_network_has_neither_f_nor_time(dims):
    network = tiny(dims, mask_channels=0, out_channels=5)
    assert network.mask_encoder is None and network.time_embedding is None
    assert not [name for name, _ in network.named_parameters() if "time" in name]
    x_t, t, image = inputs(dims, masks=0)
    assert network(x_t, t, network.encode(image)).shape == (2, 5, *SIZE[:dims])


@both_dims
@pytest.mark.parametrize("time_embedding", ["sinusoid", "table"])
def test_each_time_has_an_effect_of_its_own(dims, time_embedding):
    network = awake(dims, time_embedding=time_embedding)
    x_t, _, image = inputs(dims, batch=1)
    condition = network.encode(image)
    outputs = torch.cat([network(x_t, torch.tensor([t]), condition) for t in range(TIMES)]).flatten(1)
    distances = torch.cdist(outputs, outputs) + 1e3 * torch.eye(TIMES)
    assert distances.min() > 1e-3


def test_a_table_holds_one_vector_for_each_time():
    network = awake(2, time_embedding="table")
    assert isinstance(network.time_embedding, nn.Embedding)
    assert network.time_embedding.weight.shape == (TIMES, 8)
    x_t, _, image = inputs(2)
    network(x_t, torch.tensor([3, 11]), network.encode(image)).square().sum().backward()
    assert network.time_embedding.weight.grad is not None
    assert network.time_embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [3, 11]


@both_dims
def test_attention_follows_every_block_of_its_levels_and_stands_at_the_bottom(dims):
    network = tiny(dims, num_res_blocks=2, attention_levels=(0, 2))

    def attends(blocks: Any) -> list[bool]:
        return [isinstance(block.attention, AttentionBlock) for block in blocks]

    assert [attends(level) for level in network.encoder] == [[True] * 2, [False] * 2, [True] * 2]
    assert [attends(level) for level in network.decoder] == [[True] * 3, [False] * 3, [True] * 3]
    assert attends(network.bottom) == [True, False]


@both_dims
def test_each_output_of_the_encoder_stands_beside_the_input_of_one_decoder_block(dims):
    network = awake(dims, num_res_blocks=2)
    given: list[torch.Tensor] = []
    taken: list[torch.Tensor] = []
    network.encoder[0][0].register_forward_pre_hook(lambda _, entering: given.append(entering[0]))
    for layer in (*network.down, *(block for level in network.encoder for block in level)):
        layer.register_forward_hook(lambda _, __, output: given.append(output))
    for block in (block for level in network.decoder for block in level):
        block.register_forward_pre_hook(lambda _, entering: taken.append(entering[0]))
    x_t, t, image = inputs(dims)
    network(x_t, t, network.encode(image))
    assert len(given) == len(taken) == 3 * 3
    for skip, both in zip(reversed(given), taken, strict=True):
        assert torch.equal(both[:, -skip.shape[1] :], skip)


def test_levels_may_have_different_numbers_of_blocks():
    network = awake(2, num_res_blocks=(1, 2, 3))
    assert [len(level) for level in network.encoder] == [1, 2, 3]
    assert [len(level) for level in network.decoder] == [4, 3, 2]
    x_t, t, image = inputs(2)
    assert network(x_t, t, network.encode(image)).shape == x_t.shape


def test_the_image_encoder_is_the_one_asked_for():
    encoder = tiny(2, num_rrdbs=3).image_encoder
    assert isinstance(encoder, RRDBEncoder) and len(encoder.trunk) == 3
    assert isinstance(tiny(2, image_encoder="monai_basic_unet").image_encoder, BasicUNetEncoder)


def test_dropout_disturbs_training_only():
    network = awake(2, dropout=0.5).train()
    x_t, t, image = inputs(2)
    condition = network.encode(image)
    assert not torch.equal(network(x_t, t, condition), network(x_t, t, condition))
    network.eval()
    assert torch.equal(network(x_t, t, condition), network(x_t, t, condition))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"num_res_blocks": (1, 1)}, "num_res_blocks has 2 entries for 3 levels of channels; give one per level"),
        ({"num_res_blocks": 0}, r"num_res_blocks is \[0, 0, 0\]; give 1 or more blocks"),
        ({"channels": ()}, "num_res_blocks has 0 entries for 0 levels"),
        ({"attention_levels": (1, 3)}, r"attention_levels holds \[3\]; the levels of this network are 0 to 2"),
        ({"num_heads": 3}, "num_heads is 3 for 16 channels; give a number that divides them"),
        ({"condition": "add"}, "condition 'add' does not exist; use one of sum, concat_image, sum_after_down, concat_"),
        ({"image_encoder": "hardnet"}, "image_encoder 'hardnet' does not exist; use one of rrdb, monai_basic_unet"),
        ({"time_embedding": "none"}, "time_embedding 'none' does not exist; use one of sinusoid, table"),
        ({"time_dim": 12}, "time_dim is 12; give a multiple of 8"),
        ({"num_rrdbs": 0}, "num_rrdbs is 0; give at least 1"),
        ({"rrdb_growth": 0}, "rrdb_growth is 0; give at least 1"),
        ({"time_dim": -4}, "time_dim is -4; give at least 1"),
        ({"condition": "sum_after_down", "mask_channels": 0}, "'sum_after_down' was asked for with 0 mask channels"),
        ({"condition": "sum_after_down", "channels": (8,), "attention_levels": ()}, "3 mask channels and 1 levels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(SpecError, match=message):
        tiny(**{"dims": 2, **settings})
