"""The training strategies on a network of two lines, equation by equation (Fu et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from medsegdiff.data.noise import TrainingNoise
from medsegdiff.engines.strategies import (
    STRATEGIES,
    TAKES_FIRST_PASS,
    StrategyOutput,
    get_strategy,
    num_times,
)
from medsegdiff.errors import SpecError
from medsegdiff.methods import METHODS
from medsegdiff.methods.cdal import ADVERSARIAL
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import NoiseSchedule, custom_schedule

BATCH, TIMES = 2, 5
# Every time step keeps a good part of x_0, so that its coefficient can be measured.
SCHEDULE = custom_schedule([0.9, 0.8, 0.6, 0.4, 0.25])
GUESS = 0.5
RECYCLINGS = ["recycling", "recycling_next"]
SELF_CONDITIONINGS = ["self_conditioning", "self_conditioning_next"]
SIZES = {2: (96, 64), 3: (24, 16, 16)}
both_dims = pytest.mark.parametrize("dims", [2, 3])
# Four standard errors of a mean over a batch of 2 x 6144 voxels.
TOLERANCE = 4 / (BATCH * 6144) ** 0.5


@dataclass
class Call:
    """What the network was shown in one pass."""

    x_t: torch.Tensor
    t: torch.Tensor
    x0_prev: torch.Tensor | None
    gradient: bool


class Recorder(nn.Module):
    """Always predicts the same x_0 and remembers what it was shown; x_t enters the output through a zero weight."""

    def __init__(self, guess: float = GUESS, schedule: NoiseSchedule | None = SCHEDULE) -> None:
        super().__init__()
        self.schedule = schedule
        self.prediction = build_prediction("tanh")
        self.weight = nn.Parameter(torch.zeros(()))
        self.guess = torch.atanh(torch.tensor(guess))
        self.calls: list[Call] = []

    def forward(
        self,
        image: torch.Tensor,
        x_t: torch.Tensor,
        timesteps: torch.Tensor,
        x0_prev: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.calls.append(Call(x_t, timesteps, x0_prev, torch.is_grad_enabled()))
        return self.guess + self.weight * x_t


class Wrapper(nn.Module):
    """Stands around a network as DDP does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.passes = 0

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.module(*args)


@dataclass
class Made:
    """A training step and what it was made from."""

    x_0: torch.Tensor
    t: torch.Tensor
    out: StrategyOutput
    calls: list[Call]
    network: Recorder


def truth(dims: int) -> torch.Tensor:
    return torch.randint(2, (BATCH, 1, *SIZES[dims])).float() * 2 - 1


def step(name: str, dims: int = 2, t: tuple[int, ...] = (1, 3), **options: nn.Module) -> Made:
    network, x_0, times = Recorder(), truth(dims), torch.tensor(t)
    image = torch.zeros(BATCH, 1, *SIZES[dims])
    out = get_strategy(name)(network, image, x_0, times, TrainingNoise(0, 0, ["a", "b"]), **options)
    return Made(x_0, times, out, network.calls, network)


def noise_in(x_t: torch.Tensor, x_0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The noise that makes x_t from x_0."""
    signal, spread = SCHEDULE.scales(t, x_0)
    return (x_t - signal * x_0) / spread


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def assert_standard_normal(noise: torch.Tensor) -> None:
    for one in noise:
        assert abs(one.mean().item()) < 2 * TOLERANCE
        assert abs(one.var().item() - 1) < 3 * TOLERANCE


@both_dims
def test_diffusion_shows_the_truth_with_noise_once(dims):
    made = step("diffusion", dims)
    (call,) = made.calls
    assert torch.equal(call.t, made.t) and torch.equal(made.out.t, made.t)
    assert call.gradient and call.x0_prev is None
    assert call.x_t is made.out.x_t
    torch.testing.assert_close(call.x_t, SCHEDULE.add_noise(made.x_0, made.out.noise, made.t))
    assert_standard_normal(made.out.noise)
    assert abs(correlation(made.out.noise, made.x_0)) < TOLERANCE


@both_dims
@pytest.mark.parametrize("name", RECYCLINGS)
def test_the_first_pass_of_recycling_sees_the_truth_at_its_own_time(name, dims):
    made = step(name, dims)
    first = made.calls[0]
    expected = torch.full_like(made.t, TIMES - 1) if name == "recycling" else made.t + 1
    assert torch.equal(first.t, expected)
    # x_T is not pure noise: it holds the truth with coefficient sqrt(abar), and its variance is 1 - abar of that time.
    assert_standard_normal(noise_in(first.x_t, made.x_0, first.t))
    for one in range(BATCH):
        coefficient = (first.x_t[one] * made.x_0[one]).mean().item()
        abar = SCHEDULE.alpha_cumprod_at(int(first.t[one]))
        assert coefficient == pytest.approx(abar**0.5, abs=2 * TOLERANCE)


@both_dims
@pytest.mark.parametrize("name", RECYCLINGS)
def test_the_second_pass_of_recycling_sees_the_prediction_with_a_noise_of_its_own(name, dims):
    made = step(name, dims)
    first, second = made.calls
    assert torch.equal(second.t, made.t) and torch.equal(made.out.t, made.t)
    assert second.x_t is made.out.x_t and second.x0_prev is None
    prediction = torch.full_like(made.x_0, GUESS)
    noise = noise_in(second.x_t, prediction, made.t)
    torch.testing.assert_close(noise, made.out.noise, atol=1e-5, rtol=1e-5)
    assert_standard_normal(noise)
    assert abs(correlation(noise, made.x_0)) < TOLERANCE, "the truth leaks into x_t"
    assert abs(correlation(noise, noise_in(first.x_t, made.x_0, first.t))) < TOLERANCE, "one noise for both passes"


@pytest.mark.parametrize("name", RECYCLINGS + SELF_CONDITIONINGS)
def test_only_the_second_pass_has_a_gradient(name):
    made = step(name)
    assert [call.gradient for call in made.calls] == [False, True]
    assert not made.out.x_t.requires_grad
    made.out.output.sum().backward()
    # d output / d weight = x_t of the second pass; a path through the first would add to it.
    assert made.network.weight.grad is not None
    torch.testing.assert_close(made.network.weight.grad, made.out.x_t.sum())


@both_dims
def test_self_conditioning_shows_the_same_mask_twice(dims):
    made = step("self_conditioning", dims)
    first, second = made.calls
    assert torch.equal(first.x_t, second.x_t)
    assert torch.equal(first.t, made.t) and torch.equal(second.t, made.t)
    assert first.x0_prev is None and second.x0_prev is not None
    torch.testing.assert_close(second.x_t, SCHEDULE.add_noise(made.x_0, made.out.noise, made.t))
    assert_standard_normal(made.out.noise)


@pytest.mark.parametrize("name", SELF_CONDITIONINGS)
def test_the_previous_prediction_is_dropped_for_half_of_the_samples(name):
    count = 400
    network, x_0 = Recorder(), torch.ones(count, 2, 3, 3)
    noise = TrainingNoise(0, 0, [str(n) for n in range(count)])
    get_strategy(name)(network, x_0, x_0, torch.ones(count, dtype=torch.long), noise)
    told = network.calls[1].x0_prev.flatten(1)
    kept = told.abs().amax(dim=1) > 0
    torch.testing.assert_close(told[kept], torch.full_like(told[kept], GUESS))
    assert 160 < kept.sum() < 240
    assert not told[~kept].any()


@both_dims
def test_self_conditioning_next_draws_x_t_from_the_posterior_of_the_truth(dims):
    made = step("self_conditioning_next", dims)
    first, second = made.calls
    assert torch.equal(first.t, made.t + 1) and torch.equal(second.t, made.t)
    assert first.x0_prev is None and second.x0_prev is not None
    before = noise_in(first.x_t, made.x_0, first.t)
    assert_standard_normal(before)
    # Taken by itself, x_t is distributed as in plain diffusion: N(sqrt(abar_t) x_0, 1 - abar_t).
    noise = noise_in(second.x_t, made.x_0, made.t)
    assert_standard_normal(noise)
    torch.testing.assert_close(noise, made.out.noise, atol=1e-5, rtol=1e-5)
    # Together with x_{t+1} it is a step of one chain: Cov(x_t, x_{t+1}) = sqrt(alpha_{t+1}) (1 - abar_t).
    for one, t in enumerate(made.t.tolist()):
        now, after = SCHEDULE.alpha_cumprod_at(t), SCHEDULE.alpha_cumprod_at(t + 1)
        expected = (after / now * (1 - now) / (1 - after)) ** 0.5
        assert correlation(noise[one], before[one]) == pytest.approx(expected, abs=2 * TOLERANCE)


def test_a_supervised_step_shows_an_empty_mask():
    network, x_0, t = Recorder(schedule=None), truth(3), torch.zeros(BATCH, dtype=torch.long)
    out = get_strategy("supervised")(network, x_0, x_0, t, TrainingNoise(0, 0, ["a", "b"]))
    (call,) = network.calls
    assert call.x_t.shape == (BATCH, 0, *SIZES[3])
    assert call.gradient and out.x_t is call.x_t


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "supervised"])
def test_a_strategy_that_needs_a_schedule_says_so(name):
    x_0 = truth(2)
    with pytest.raises(SpecError, match="needs a network with a noise schedule, got a supervised one"):
        get_strategy(name)(Recorder(schedule=None), x_0, x_0, torch.tensor([0, 1]), TrainingNoise(0, 0, ["a", "b"]))


@pytest.mark.parametrize("name", sorted(TAKES_FIRST_PASS))
def test_another_network_can_make_the_first_pass(name):
    averaged = Recorder(guess=-0.25)
    made = step(name, first_pass=averaged)
    assert len(made.calls) == len(averaged.calls) == 1
    assert not averaged.calls[0].gradient and made.calls[0].gradient
    noise = noise_in(made.out.x_t, torch.full_like(made.x_0, -0.25), made.t)
    torch.testing.assert_close(noise, made.out.noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "supervised"])
def test_only_the_pass_with_a_gradient_goes_through_ddp(name):
    inner = Recorder()
    network, x_0 = Wrapper(inner), truth(2)
    get_strategy(name)(network, x_0, x_0, torch.tensor([0, 1]), TrainingNoise(0, 0, ["a", "b"]))
    assert network.passes == 1
    assert len(inner.calls) == (1 if name == "diffusion" else 2)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_sample_s_step_does_not_depend_on_its_batch(name):
    def inputs(names: list[str], rows: slice) -> torch.Tensor:
        network = Recorder(schedule=None if name == "supervised" else SCHEDULE)
        part = x_0[rows]
        get_strategy(name)(network, part, part, torch.tensor([0, 2])[rows], TrainingNoise(0, 0, names))
        return torch.stack([call.x_t for call in network.calls])

    x_0 = truth(2)
    together = inputs(["a", "b"], slice(0, 2))
    apart = [inputs(["a"], slice(0, 1)), inputs(["b"], slice(1, 2))]
    assert torch.equal(together, torch.cat(apart, dim=1))


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "supervised"])
def test_every_time_step_that_is_offered_can_be_taken(name):
    # Recycling and the first passes at t + 1 leave out the last one.
    assert num_times(name, TIMES) == {"diffusion": TIMES, "self_conditioning": TIMES}.get(name, TIMES - 1)
    last = num_times(name, TIMES) - 1
    made = step(name, t=(0, last))
    assert max(int(call.t.max()) for call in made.calls) <= TIMES - 1
    assert torch.isfinite(made.out.x_t).all() and torch.isfinite(made.out.noise).all()


@pytest.mark.parametrize("name", ["recycling_next", "self_conditioning_next"])
def test_a_step_after_the_last_is_refused(name):
    with pytest.raises(SpecError, match="timestep 5 does not exist"):
        step(name, t=(0, TIMES - 1))


def test_every_method_has_its_strategy():
    # What is trained beside a discriminator has a trainer of its own instead.
    strategies = {method.strategy for method in METHODS.values()} - {ADVERSARIAL}
    assert strategies <= set(STRATEGIES)
    for name in strategies:
        assert isinstance(get_strategy(name), Callable)


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(SpecError, match="strategy 'recycle' does not exist; use one of supervised, diffusion"):
        get_strategy("recycle")
