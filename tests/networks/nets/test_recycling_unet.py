"""The recycling U-Net: sizes, what its output depends on, and its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.padding import pad_at_end
from medsegdiff.networks.nets.recycling_unet import RecyclingUNet

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (7, 5, 6)
MASKS, CLASSES = 3, 3


def tiny(dims: int, *, mask_channels: int = MASKS, **options: Any) -> RecyclingUNet:
    options = {"channels": (4, 8, 8), "num_res_blocks": 1, "token_grid": 2, "num_heads": 2, "time_dim": 8, **options}
    return RecyclingUNet(dims, 2, mask_channels, CLASSES, num_train_timesteps=20, **options).eval()


def inputs(dims: int, batch: int = 2, masks: int = MASKS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size = SIZE[:dims]
    return torch.randn(batch, masks, *size), torch.randint(20, (batch,)), torch.randn(batch, 2, *size)


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (7, 33), (1, 9), (8, 8, 8), (1, 1, 1), (5, 1, 9), (3, 12, 2)])
def test_the_output_has_the_size_of_the_input(size):
    network = tiny(len(size))
    x_t, image = torch.randn(1, MASKS, *size), torch.randn(1, 2, *size)
    output = network(x_t, torch.tensor([3]), image)
    assert output.shape == (1, CLASSES, *size)
    assert torch.isfinite(output).all()


@both_dims
def test_padding_inside_equals_padding_outside(dims):
    network = tiny(dims)
    x_t, t, image = inputs(dims)
    amounts = [8 - n for n in SIZE[:dims]]
    outside = network(pad_at_end(x_t, amounts), t, pad_at_end(image, amounts))
    inside = tuple(slice(0, n) for n in SIZE[:dims])
    torch.testing.assert_close(network(x_t, t, image), outside[(..., *inside)])


@pytest.mark.parametrize("norm", ["instance", "group"])
@both_dims
def test_time_mask_and_image_change_the_output(dims, norm):
    network = tiny(dims, norm=norm)
    x_t, t, image = inputs(dims)
    output = network(x_t, t, image)
    assert largest_difference(output, network(x_t, (t + 10) % 20, image)) > 1e-2
    assert largest_difference(output, network(x_t.flip(0), t, image)) > 1e-2
    assert largest_difference(output, network(x_t, t, image.flip(0))) > 1e-2


@both_dims
def test_only_a_self_conditioned_network_reads_the_previous_prediction(dims):
    x_t, t, image = inputs(dims)
    x0_prev = torch.randn_like(x_t)
    network = tiny(dims, self_conditioning=True)
    assert largest_difference(network(x_t, t, image), network(x_t, t, image, x0_prev)) > 1e-2
    torch.testing.assert_close(network(x_t, t, image), network(x_t, t, image, torch.zeros_like(x_t)))
    plain = tiny(dims)
    assert torch.equal(plain(x_t, t, image), plain(x_t, t, image, x0_prev))


@both_dims
def test_a_supervised_network_ignores_time(dims):
    network = tiny(dims, mask_channels=0)
    x_t, t, image = inputs(dims, masks=0)
    output = network(x_t, t, image)
    assert output.shape == (2, CLASSES, *SIZE[:dims])
    assert torch.equal(output, network(x_t, (t + 10) % 20, image))


@both_dims
def test_images_of_a_batch_do_not_see_each_other(dims):
    network = tiny(dims)
    x_t, t, image = inputs(dims, batch=3)
    together = network(x_t, t, image)
    for one in range(3):
        alone = network(x_t[one : one + 1], t[one : one + 1], image[one : one + 1])
        torch.testing.assert_close(together[one : one + 1], alone, atol=1e-5, rtol=1e-4)


def test_clip_mask_feeds_the_clipped_mask_scaled_to_one():
    released, plain = tiny(2, clip_mask=True), tiny(2)
    plain.load_state_dict(released.state_dict())
    x_t, t, image = inputs(2)
    torch.testing.assert_close(released(2 * x_t, t, image), plain(((2 * x_t).clamp(-1, 1) + 1) / 2, t, image))


def test_the_mask_enters_in_one_way():
    with pytest.raises(SpecError, match="got clip_mask and mask_scales"):
        tiny(2, clip_mask=True, mask_scales=[1.0] * 20)


@both_dims
def test_a_mask_gain_of_zero_starts_blind_to_the_mask_and_learns_to_see_it(dims):
    network = tiny(dims, mask_gain=0.0)
    x_t, t, image = inputs(dims)
    torch.testing.assert_close(network(x_t, t, image), network(2 * x_t, t, image))
    network(x_t, t, image).square().mean().backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert not torch.allclose(network(x_t, t, image), network(2 * x_t, t, image))


@both_dims
def test_mask_scales_multiply_the_mask_by_the_factor_of_its_time(dims):
    factors = torch.linspace(1, 0.05, 20)
    scaled, plain = tiny(dims, mask_scales=factors.tolist()), tiny(dims)
    scaled.load_state_dict(plain.state_dict())
    x_t, t, image = inputs(dims)
    column = factors[t].view(-1, *(1,) * (dims + 1))
    torch.testing.assert_close(scaled(x_t, t, image), plain(x_t * column, t, image))


@both_dims
def test_gradient_checkpointing_gives_the_same_gradients_from_recomputed_blocks(dims):
    x_t, t, image = inputs(dims)
    plain, saving = tiny(dims), tiny(dims, gradient_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    calls = {"plain": 0, "saving": 0}

    def counting(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    plain.bottleneck[0].conv1.register_forward_hook(counting("plain"))
    saving.bottleneck[0].conv1.register_forward_hook(counting("saving"))
    for network in (plain, saving):
        network(x_t, t, image).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    assert calls == {"plain": 1, "saving": 2}


@both_dims
def test_every_weight_takes_part(dims):
    network = tiny(dims, self_conditioning=True)
    x_t, t, image = inputs(dims)
    network(x_t, t, image, torch.randn_like(x_t)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@both_dims
def test_without_a_transformer_the_bottleneck_passes_through(dims):
    network = tiny(dims, transformer=False)
    assert isinstance(network.transformer, nn.Identity)
    x_t, t, image = inputs(dims)
    assert network(x_t, t, image).shape == (2, CLASSES, *SIZE[:dims])


def test_levels_may_have_different_numbers_of_blocks():
    network = tiny(2, num_res_blocks=(0, 2, 1))
    assert [len(level) for level in network.encoder] == [0, 2, 1]
    assert [len(level) for level in network.decoder] == [1, 3, 2]
    x_t, t, image = inputs(2)
    assert network(x_t, t, image).shape == x_t.shape


def test_every_skip_reaches_the_decoder():
    """What the encoder's first layer gives alone still changes the output when all below is cut off."""
    network = tiny(2, num_res_blocks=0)
    for up in network.up:
        nn.init.zeros_(up[1].weight)
    x_t, t, image = inputs(2)
    assert largest_difference(network(x_t, t, image), network(-x_t, t, image)) > 1e-2


@both_dims
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_gives_fresh_results_for_fresh_inputs(dims):
    network = tiny(dims)
    x_t, t, image = inputs(dims)
    traced = torch.jit.trace(network, (x_t, t, network.encode(image)))
    for _ in range(2):
        x_t, t, image = inputs(dims)
        torch.testing.assert_close(traced(x_t, t, image), network(x_t, t, image))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"num_res_blocks": (1, 1)}, "num_res_blocks has 2 entries for 3 levels of channels; give one per level"),
        ({"num_res_blocks": -1}, "num_res_blocks is .* give 0 or more blocks"),
        ({"mask_channels": 0, "self_conditioning": True}, "give mask_channels of at least 1, got 0"),
        ({"norm": "batch"}, "norm 'batch' does not exist; use one of instance, group"),
        ({"token_grid": (2, 2, 2)}, "token_grid must have 2 entries"),
        ({"time_dim": 7}, "must be even, got 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    settings = {"dims": 2, **settings}
    with pytest.raises(SpecError, match=message):
        tiny(**settings)
