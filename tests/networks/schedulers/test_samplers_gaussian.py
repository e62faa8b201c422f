"""Samplers on data whose perfect denoiser is known: a Gaussian, and a mask of independent pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from medsegdiff.networks.schedulers.samplers import SAMPLERS, sample_ddim, sample_ddpm, sample_dpm_solver_pp
from medsegdiff.networks.schedulers.schedule import NoiseSchedule
from medsegdiff.networks.schedulers.tables import cosine_schedule, linear_schedule

SCHEDULE = linear_schedule()
MEAN, VARIANCE = 0.3, 0.25


def _gaussian(schedule: NoiseSchedule) -> Callable[[Tensor, int, Tensor | None], Tensor]:
    """E[x_0 | x_t] for x_0 ~ N(MEAN, VARIANCE)."""

    def denoise(x_t: Tensor, t: int, x0_prev: Tensor | None) -> Tensor:
        abar = schedule.alpha_cumprod_at(t)
        gain = abar**0.5 * VARIANCE / (abar * VARIANCE + 1 - abar)
        return MEAN + gain * (x_t - abar**0.5 * MEAN)

    return denoise


@pytest.fixture
def error(propagate: Callable[..., Any], marginal: Callable[..., Any]) -> Callable[..., tuple[float, float]]:
    """How far the mean and the standard deviation of a sampler's result are from the true ones."""

    def errors(sampler: Any, steps: int, schedule: NoiseSchedule = SCHEDULE, **options: Any) -> tuple[float, float]:
        last = schedule.num_train_timesteps - 1
        start = marginal(schedule, last, MEAN, VARIANCE)
        timesteps = schedule.timesteps(steps)
        _, (mean, variance) = propagate(sampler, _gaussian(schedule), schedule, timesteps, start=start, **options)
        # The result is E[x_0 | x_t] at t = 0, a little less spread than x_0.
        abar = schedule.alpha_cumprod_at(0)
        true_std = abar**0.5 * VARIANCE / (abar * VARIANCE + 1 - abar) ** 0.5
        return abs(mean - MEAN), abs(variance**0.5 - true_std)

    return errors


WAYS = [
    (sample_ddpm, {}),
    (sample_ddpm, {"variance": "beta"}),
    (sample_ddim, {}),
    (sample_ddim, {"eta": 0.5}),
    (sample_ddim, {"eta": 1.0}),
    (sample_dpm_solver_pp, {}),
]
every_way = pytest.mark.parametrize(
    ("sampler", "options"), WAYS, ids=["ddpm", "ddpm-beta", "ddim", "ddim-half", "ddim-full", "dpm_solver++"]
)


@every_way
@pytest.mark.parametrize("schedule", [SCHEDULE, cosine_schedule(1000)], ids=["linear", "cosine"])
def test_all_steps_reach_mean_and_spread(
    sampler: Any, options: dict[str, Any], schedule: NoiseSchedule, error: Callable[..., Any]
) -> None:
    mean_error, std_error = error(sampler, schedule.num_train_timesteps, schedule, **options)
    assert mean_error < 1e-6
    assert std_error < 0.005


@every_way
def test_mean_is_right_in_any_number_of_steps(sampler: Any, options: dict[str, Any], error: Callable[..., Any]) -> None:
    for steps in (1, 2, 5, 17):
        assert error(sampler, steps, **options)[0] < 1e-6


@every_way
def test_error_of_the_spread_falls_with_the_steps(
    sampler: Any, options: dict[str, Any], error: Callable[..., Any]
) -> None:
    errors = [error(sampler, steps, **options)[1] for steps in (2, 5, 20, 160, 1001)]
    assert errors == sorted(errors, reverse=True)


def test_ddim_is_of_first_order(error: Callable[..., Any]) -> None:
    for steps in (20, 80):
        assert error(sample_ddim, steps)[1] / error(sample_ddim, 4 * steps)[1] == pytest.approx(4, rel=0.05)


def test_dpm_solver_falls_faster_than_ddim_and_is_never_worse(error: Callable[..., Any]) -> None:
    ddim, dpm = (
        {n: error(sampler, n)[1] for n in (5, 10, 20, 1001)} for sampler in (sample_ddim, sample_dpm_solver_pp)
    )
    assert all(dpm[n] < ddim[n] for n in ddim)
    order = {name: math.log(e[20] / e[1001]) / math.log(50) for name, e in (("ddim", ddim), ("dpm", dpm))}
    assert order["ddim"] == pytest.approx(1, abs=0.05)
    assert order["dpm"] > 1.6


def _mask(x_t: Tensor, t: int, x0_prev: Tensor | None) -> Tensor:
    """E[x_0 | x_t] for pixels that are +1 with probability 0.7 and -1 otherwise."""
    abar = SCHEDULE.alpha_cumprod_at(t)
    return torch.tanh(abar**0.5 * x_t / (1 - abar) + math.atanh(0.4))


@pytest.mark.parametrize("name", SAMPLERS)
def test_mask_of_independent_pixels_gets_its_share_of_foreground(name: str) -> None:
    generator, n = torch.Generator().manual_seed(5), 10_000
    noises = torch.randn(51, n, 1, 1, generator=generator)
    x_0 = SAMPLERS[name](_mask, noises[50], SCHEDULE, SCHEDULE.timesteps(50), lambda i: noises[i])
    assert x_0.abs().min().item() > 0.99
    assert (x_0 > 0).float().mean().item() == pytest.approx(0.7, abs=4 * (0.21 / n) ** 0.5 + 0.01)


def test_deterministic_samplers_agree_pixel_by_pixel_as_steps_grow() -> None:
    x_T = torch.linspace(-2.5, 2.5, 1001, dtype=torch.float64).reshape(-1, 1, 1)
    differences = []
    for steps in (5, 20, 80, 320):
        arguments = (_gaussian(SCHEDULE), x_T, SCHEDULE, SCHEDULE.timesteps(steps), lambda _: x_T)
        differences.append((sample_ddim(*arguments) - sample_dpm_solver_pp(*arguments)).abs().max().item())
    assert differences[-1] < 0.02
    assert differences[-1] < differences[-2] / 3
