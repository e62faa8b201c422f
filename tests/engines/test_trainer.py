"""The trainer: what a step does, what it refuses, and what it leaves in the weights."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from torch import nn

from medsegdiff.errors import MedSegDiffError, SpecError
from medsegdiff.methods import METHODS

RECYCLING_FAMILY = (
    "supervised",
    "diffusion",
    "recycling",
    "recycling_next",
    "self_conditioning",
    "self_conditioning_next",
)


def weights_of(network: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def losses_of(trainer) -> list[float]:
    """Run a trainer and give the loss of every iteration."""
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
    )
    trainer.run()
    return losses


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", RECYCLING_FAMILY)
def test_every_method_trains(make_trainer, method, dims):
    trainer = make_trainer(method, dims=dims)
    before = weights_of(trainer.network)
    losses = losses_of(trainer)
    assert len(losses) == 2
    assert all(torch.isfinite(torch.tensor(losses)))
    assert not torch.equal(before, weights_of(trainer.network))


@pytest.mark.parametrize("method", RECYCLING_FAMILY)
def test_every_parameter_takes_part_in_every_step(make_trainer, method):
    """What training on several processes relies on."""
    trainer = make_trainer(method, samples=2)
    trainer.run()
    assert [name for name, p in trainer.network.named_parameters() if p.grad is None] == []


def test_the_family_is_registered():
    assert set(RECYCLING_FAMILY) <= set(METHODS)


@pytest.mark.parametrize("method", ["supervised", "recycling"])
def test_training_lowers_the_loss(make_trainer, method):
    losses = losses_of(make_trainer(method, max_epochs=15, optimizer=torch.optim.AdamW))
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_a_run_does_not_depend_on_the_global_random_state(make_trainer):
    options = {"max_epochs": 2, "network_options": {"dropout": 0.3}}
    first, second = make_trainer(**options), make_trainer(**options)
    first.run()
    torch.manual_seed(12345)
    second.run()
    assert torch.equal(weights_of(first.network), weights_of(second.network))


def test_another_seed_is_another_run(make_trainer):
    first, second = make_trainer(), make_trainer(seed=1)
    first.run()
    second.run()
    assert not torch.equal(weights_of(first.network), weights_of(second.network))


@pytest.mark.parametrize("method", ["supervised", "diffusion", "recycling", "self_conditioning"])
def test_accumulated_batches_equal_one_big_batch(make_trainer, method):
    # Clipping would hide a gradient that is too large.
    options = {"time_sampler": "uniform", "samples": 8, "learning_rate": 0.1, "max_grad_norm": None}
    big = make_trainer(method, batch_size=4, **options)
    small = make_trainer(method, batch_size=1, accumulation_steps=4, **options)
    start = weights_of(big.network)
    big.run()
    small.run()
    moved = (weights_of(big.network) - start).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(weights_of(small.network), weights_of(big.network), rtol=0, atol=1e-5 * float(moved))


def test_the_last_step_of_an_epoch_may_accumulate_fewer_batches(make_trainer):
    options = {"time_sampler": "uniform", "samples": 3, "max_epochs": 2, "drop_last": False, "max_grad_norm": None}
    big = make_trainer("diffusion", batch_size=2, **options)
    small = make_trainer("diffusion", batch_size=1, accumulation_steps=2, **options)
    start = weights_of(big.network)
    big.run()
    small.run()
    moved = (weights_of(big.network) - start).abs().max()
    torch.testing.assert_close(weights_of(small.network), weights_of(big.network), rtol=0, atol=1e-5 * float(moved))


def test_the_learning_rate_and_the_average_follow_the_optimiser_not_the_batches(make_trainer):
    trainer = make_trainer(
        samples=6,
        batch_size=1,
        accumulation_steps=3,
        schedule_rate=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, total_iters=100),
    )
    trainer.run()
    assert trainer.lr_scheduler.last_epoch == 2
    assert int(trainer.ema.n_averaged) == 2


def test_gradients_are_clipped_together(make_trainer):
    moved = {}
    for norm in (1e-3, None):
        trainer = make_trainer("diffusion", samples=2, learning_rate=1.0, max_grad_norm=norm, ema=False)
        before = weights_of(trainer.network)
        trainer.run()
        moved[norm] = float((weights_of(trainer.network) - before).norm())
    # One step of plain SGD at rate 1 moves the weights by the gradient itself.
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[None] > 0.1


def test_the_average_follows_the_weights(make_trainer):
    trainer = make_trainer(max_epochs=3)
    visited = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: visited.append(weights_of(engine.network)))
    trainer.run()
    average = visited[0]
    for n, weights in enumerate(visited[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(weights_of(trainer.ema.module), average)
    assert not torch.equal(average, visited[-1])
    assert not trainer.ema.module.training


def test_the_averaged_network_can_make_the_first_pass(make_trainer):
    trainer = make_trainer("recycling", first_pass="ema", max_epochs=2)
    calls = []
    trainer.ema.module.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    trainer.run()
    assert calls == [False] * 4

    plain = make_trainer("recycling", max_epochs=2)
    plain.run()
    assert not torch.equal(weights_of(plain.network), weights_of(trainer.network))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "diffusion",
            {"first_pass": "ema"},
            "method 'diffusion' and an EMA; it needs one of recycling, recycling_next",
        ),
        ("recycling", {"first_pass": "ema", "ema": False}, "method 'recycling' and no EMA"),
        ("recycling", {"first_pass": "average"}, "first_pass 'average' does not exist; use network or ema"),
        ("recycling", {"network_method": "supervised"}, "needs a network with a noise schedule, got a supervised"),
        ("supervised", {"network_method": "diffusion"}, "needs a supervised network, got a network with a noise"),
        ("recycling", {"amp": "fp16"}, "fp16.*CPU.*use amp 'bf16' or 'auto'"),
        ("recycling", {"amp": "half"}, "amp 'half' does not exist; use one of auto, bf16, fp16, off"),
        ("recycling", {"time_sampler": "often"}, "time sampler 'often' does not exist"),
        ("recycling", {"accumulation_steps": 0}, "accumulation_steps is 0; give at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_trainer, method, options, message):
    with pytest.raises(SpecError, match=message):
        make_trainer(method, **options)


def test_an_unknown_method_is_refused_with_the_known_ones(make_trainer):
    with pytest.raises(SpecError, match="method 'guess' does not exist; use one of supervised, diffusion"):
        make_trainer("guess", network_method="diffusion")


def test_a_loss_that_is_not_finite_stops_training_before_the_weights_change(make_trainer):
    trainer = make_trainer(loss_function=lambda logits, label: logits.mean(dim=(1, 2, 3)) * float("nan"))
    before = weights_of(trainer.network)
    with pytest.raises(MedSegDiffError, match=r"the loss became nan in epoch 1, iteration 1.*amp to off"):
        trainer.run()
    assert torch.equal(before, weights_of(trainer.network))


@pytest.mark.parametrize("max_grad_norm", [1.0, None])
def test_a_gradient_that_is_not_finite_stops_training_before_the_weights_change(make_trainer, max_grad_norm):
    # The square root has value 0 and an infinite slope at 0.
    trainer = make_trainer(
        loss_function=lambda logits, label: (0 * logits).sqrt().mean(dim=(1, 2, 3)), max_grad_norm=max_grad_norm
    )
    before = weights_of(trainer.network)
    with pytest.raises(MedSegDiffError, match="the norm of the gradient of the network became nan in epoch 1"):
        trainer.run()
    assert torch.equal(before, weights_of(trainer.network))


@pytest.mark.parametrize("dims", [2, 3])
def test_bf16_on_the_cpu_computes_in_bf16_and_keeps_float32_weights(make_trainer, dims):
    trainer = make_trainer(dims=dims, amp="bf16")
    seen: dict[str, set[torch.dtype]] = {"conv": set(), "linear": set()}
    for module in trainer.network.denoiser.modules():
        kind = {"Conv2d": "conv", "Conv3d": "conv", "Linear": "linear"}.get(type(module).__name__)
        if kind is not None:
            module.register_forward_hook(lambda _m, _i, out, kind=kind: seen[kind].add(out.dtype))
    losses = losses_of(trainer)
    assert seen == {"conv": {torch.bfloat16}, "linear": {torch.bfloat16}}
    assert {p.dtype for p in trainer.network.parameters()} == {torch.float32}
    assert {p.dtype for p in trainer.ema.module.parameters()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(losses)))
    assert "grad_scaler" not in trainer.stateful_objects()


def test_full_precision_computes_in_float32(make_trainer):
    trainer = make_trainer(amp="off")
    seen = set()
    for module in trainer.network.denoiser.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    trainer.run()
    assert seen == {torch.float32}


def test_handlers_see_the_output_sample_by_sample(make_trainer):
    trainer = make_trainer()
    outputs = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))
    trainer.run()
    assert [len(output) for output in outputs] == [2, 2]
    assert {"image", "label", "pred", "loss"} <= set(outputs[0][0])
    assert outputs[0][0]["pred"].shape == (3, 8, 8)


def test_importance_sampling_learns_from_every_sample(make_trainer):
    trainer = make_trainer(samples=6, max_epochs=8, time_sampler_options={"bins": 4})
    trainer.run()
    history = trainer.time_sampler.state_dict()
    assert (history["mass"] > 0).all()
    assert (history["sums"] > 0).all()
    assert not torch.allclose(trainer.time_sampler.probabilities, torch.full((1000,), 1e-3, dtype=torch.float64))


def test_batches_without_names_have_noises_of_their_own(make_trainer):
    trainer = make_trainer()
    batch = {"image": torch.zeros(2, 1, 8, 8), "label": torch.zeros(2, 1, 8, 8)}
    drawn = []
    for iteration in (1, 2):
        trainer.state.iteration = iteration
        drawn.append(trainer.take_batch(batch)[2].normal((4,)))
    assert not torch.equal(*drawn)
