"""What holds for every denoiser, as a class of tests to inherit: `class TestX(DenoiserContract)` with a `make`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.networks.nets.denoiser import Denoiser

SIZE = (7, 5, 6)
TIMES = 20
both_dims = pytest.mark.parametrize("dims", [2, 3])


def awakened(network: nn.Module) -> nn.Module:
    """The network with random numbers where it starts at zero, so that all its parts have a say."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


class DenoiserContract:
    """Tests of what the segmenter, the samplers and the trainers rely on.

    A network's own tests inherit and say how a small one is made; `supervised` and `checkpointing` are False for
    networks without such a variant.
    """

    image_channels = 2
    mask_channels = 3
    supervised = True
    checkpointing = True

    def make(self, dims: int, **options: Any) -> Denoiser:
        """A network of few weights for `TIMES` time steps, `image_channels` and `mask_channels`.

        Args:
            dims: 2 or 3.
            **options: `mask_channels=0` for the supervised variant, `gradient_checkpointing=True`.
        """
        raise NotImplementedError

    def awake(self, dims: int, **options: Any) -> Denoiser:
        return awakened(self.make(dims, **options)).eval()

    def inputs(self, dims: int, batch: int = 2, masks: int | None = None, size: Any = None) -> dict[str, Any]:
        """x_t, t and image; `call` adds the latent, where the network has one."""
        size = SIZE[:dims] if size is None else size
        return {
            "x_t": torch.randn(batch, self.mask_channels if masks is None else masks, *size),
            "t": torch.randint(TIMES, (batch,)),
            "image": torch.randn(batch, self.image_channels, *size),
        }

    def call(self, network: Denoiser, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor, **more: Any) -> Any:
        if network.latent_dim and "z" not in more:
            more["z"] = torch.linspace(-1, 1, network.latent_dim).expand(len(x_t), -1)
        return network(x_t, t, network.encode(image), **more)

    @pytest.mark.parametrize("size", [(16, 16), (1, 1), (7, 33), (1, 9), (8, 8, 8), (1, 1, 1), (5, 1, 9), (3, 12, 2)])
    def test_the_output_has_the_size_of_the_input(self, size):
        network = self.awake(len(size)).train()
        output = self.call(network, **self.inputs(len(size), batch=1, size=size))
        assert output.shape[2:] == size
        assert len(output) == 1
        assert torch.isfinite(output).all()

    @both_dims
    def test_time_mask_and_image_change_the_output(self, dims):
        network, given = self.awake(dims), self.inputs(dims)
        output = self.call(network, **given)
        for name, other in (("t", (given["t"] + 10) % TIMES), ("x_t", -given["x_t"]), ("image", -given["image"])):
            assert largest_difference(output, self.call(network, **{**given, name: other})) > 1e-2, name

    @both_dims
    def test_the_latent_changes_the_output_where_there_is_one(self, dims):
        network, given = self.awake(dims), self.inputs(dims)
        z = torch.randn(2, network.latent_dim or 5)
        change = largest_difference(self.call(network, **given, z=z), self.call(network, **given, z=-z))
        assert change > 1e-2 if network.latent_dim else change == 0

    @both_dims
    def test_a_condition_that_was_kept_is_as_good_as_a_new_one(self, dims):
        network, given = self.awake(dims), self.inputs(dims)
        condition = network.encode(given["image"])
        z = torch.randn(2, network.latent_dim)
        for t in (given["t"], (given["t"] + 7) % TIMES):
            kept = network(given["x_t"], t, condition, z=z)
            assert torch.equal(kept, network(given["x_t"], t, network.encode(given["image"]), z=z))

    @both_dims
    def test_a_condition_has_one_entry_an_image_which_draws_can_share(self, dims):
        network, given = self.awake(dims), self.inputs(dims, batch=3)
        condition = network.encode(given["image"][:1])
        assert len(condition) == 1
        z = torch.randn(3, network.latent_dim)
        together = network(given["x_t"], given["t"], condition.expand(3, *condition.shape[1:]), z=z)
        for n in range(3):
            alone = network(given["x_t"][n : n + 1], given["t"][n : n + 1], condition, z=z[n : n + 1])
            torch.testing.assert_close(together[n : n + 1], alone, atol=1e-5, rtol=1e-4)

    @both_dims
    def test_images_of_a_batch_do_not_see_each_other(self, dims):
        network, given = self.awake(dims), self.inputs(dims, batch=3)
        together = self.call(network, **given)
        for n in range(3):
            alone = self.call(network, **{name: value[n : n + 1] for name, value in given.items()})
            torch.testing.assert_close(together[n : n + 1], alone, atol=1e-5, rtol=1e-4)

    @both_dims
    def test_a_supervised_network_ignores_time(self, dims):
        if not self.supervised:
            pytest.skip("no supervised variant")
        network, given = self.awake(dims, mask_channels=0), self.inputs(dims, masks=0)
        output = self.call(network, **given)
        assert output.shape[2:] == SIZE[:dims]
        assert torch.equal(output, self.call(network, **{**given, "t": (given["t"] + 10) % TIMES}))
        assert largest_difference(output, self.call(network, **{**given, "image": -given["image"]})) > 1e-2

    @both_dims
    def test_every_weight_takes_part(self, dims):
        network = self.awake(dims)
        self.call(network, **self.inputs(dims)).square().sum().backward()
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []

    @both_dims
    def test_weights_survive_a_file(self, dims, tmp_path):
        network, other, given = self.awake(dims), self.awake(dims), self.inputs(dims)
        assert not torch.equal(self.call(network, **given), self.call(other, **given))
        torch.save(network.state_dict(), tmp_path / "model.pt")
        other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        assert torch.equal(self.call(network, **given), self.call(other, **given))

    @both_dims
    def test_gradient_checkpointing_gives_the_same_gradients_from_recomputed_blocks(self, dims):
        if not self.checkpointing:
            pytest.skip("no gradient checkpointing")
        plain, saving, given = self.awake(dims), self.awake(dims, gradient_checkpointing=True), self.inputs(dims)
        saving.load_state_dict(plain.state_dict())
        calls: list[int] = []
        for network in (plain, saving):
            seen: list[nn.Module] = []
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d):
                    module.register_forward_hook(lambda called, *_, seen=seen: seen.append(called))
            self.call(network, **given).square().sum().backward()
            calls.append(len(seen))
        for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, msg=name)
        assert 1.5 * calls[0] < calls[1] <= 2 * calls[0]

    @both_dims
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @torch.no_grad()
    def test_a_trace_gives_fresh_results_for_fresh_inputs(self, dims):
        network, given = self.awake(dims), self.inputs(dims)
        z = (torch.randn(2, network.latent_dim),) if network.latent_dim else ()

        def tensors(given: dict[str, Any]) -> tuple[Any, ...]:
            return given["x_t"], given["t"], network.encode(given["image"]), torch.zeros_like(given["x_t"]), *z

        traced = torch.jit.trace(network, tensors(given), check_trace=False)
        for _ in range(2):
            fresh = tensors(self.inputs(dims))
            torch.testing.assert_close(traced(*fresh), network(*fresh))

    @both_dims
    def test_half_precision_stays_close_to_full(self, dims):
        network, given = self.awake(dims), self.inputs(dims)
        full = self.call(network, **given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = self.call(network, **given)
        assert half.dtype in (torch.bfloat16, torch.float32)
        assert largest_difference(half.float(), full) < 0.1 * full.abs().max().item()
