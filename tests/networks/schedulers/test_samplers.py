"""What every sampler must do with a perfect oracle, a batch, a dtype, a callback and bad timesteps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.samplers import (
    SAMPLERS,
    SamplerStep,
    get_sampler,
    sample_ddim,
    sample_ddpm,
    sample_dpm_solver_pp,
)
from medsegdiff.networks.schedulers.schedule import END, NoiseSchedule
from medsegdiff.networks.schedulers.tables import (
    cdal_schedule,
    cosine_schedule,
    linear_schedule,
    segdiff_schedule,
)

SCHEDULE = linear_schedule()
WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddpm": (sample_ddpm, {}),
    "ddpm-beta": (sample_ddpm, {"variance": "beta"}),
    "ddpm-mean": (sample_ddpm, {"variance": "none"}),
    "ddim": (sample_ddim, {}),
    "ddim-half": (sample_ddim, {"eta": 0.5}),
    "ddim-full": (sample_ddim, {"eta": 1.0}),
    "dpm_solver++": (sample_dpm_solver_pp, {}),
}
every_way = pytest.mark.parametrize("way", WAYS)
marginal_ways = pytest.mark.parametrize("way", [way for way in WAYS if way not in ("ddpm-beta", "ddpm-mean")])
shapes = pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 2, 4, 5, 3)], ids=["2-D", "3-D"])
visits = pytest.mark.parametrize(
    "timesteps",
    [*map(SCHEDULE.timesteps, (1, 2, 3, 5, 40)), [1000, 3], [700, 699, 12], [42]],
    ids=lambda t: f"{len(t)}-from-{t[0]}",
)


def _noises(shape: tuple[int, ...], number: int, seed: int = 3) -> Tensor:
    return torch.randn(number, *shape, generator=torch.Generator().manual_seed(seed))


def _denoise(x_t: Tensor, t: int, x0_prev: Tensor | None) -> Tensor:
    """A denoiser that uses all that it gets."""
    return torch.tanh(x_t + t / 1000 + (0 if x0_prev is None else 0.5 * x0_prev))


@every_way
@visits
@shapes
def test_perfect_oracle_comes_out_unchanged(way: str, timesteps: list[int], shape: tuple[int, ...]) -> None:
    sampler, options = WAYS[way]
    x_0, noises = _noises(shape, 1, seed=9)[0], _noises(shape, len(timesteps))
    result = sampler(lambda *_: x_0, noises[-1], SCHEDULE, timesteps, lambda i: noises[i], **options)
    assert torch.equal(result, x_0)


@marginal_ways
@pytest.mark.parametrize(
    ("schedule", "timesteps"),
    [
        (SCHEDULE, SCHEDULE.timesteps(5)),
        (SCHEDULE, [1000, 998, 640, 20, 19, 0]),
        (SCHEDULE, [800, 33]),
        (cosine_schedule(50), cosine_schedule(50).timesteps(7)),
        (segdiff_schedule(), list(range(99, -1, -1))),
        (cdal_schedule(), [3, 2, 1, 0]),
    ],
    ids=["linear-5", "linear-uneven", "linear-part", "cosine", "segdiff-all", "cdal"],
)
def test_every_visited_marginal_is_the_forward_ones(
    way: str, schedule: NoiseSchedule, timesteps: list[int], propagate: Callable[..., Any], marginal: Callable[..., Any]
) -> None:
    sampler, options = WAYS[way]
    start = marginal(schedule, timesteps[0], 0.8)
    seen, _ = propagate(sampler, lambda x, *_: 0.8 + 0 * x, schedule, timesteps, start=start, **options)
    for t, got in zip(timesteps, seen, strict=True):
        assert got == pytest.approx(marginal(schedule, t, 0.8), abs=1e-10)


def test_beta_variance_keeps_the_mean_and_widens_the_marginals(
    propagate: Callable[..., Any], marginal: Callable[..., Any]
) -> None:
    timesteps, start = SCHEDULE.timesteps(5), marginal(SCHEDULE, 1000, 0.8)
    seen, _ = propagate(sample_ddpm, lambda x, *_: 0.8 + 0 * x, SCHEDULE, timesteps, start=start, variance="beta")
    for t, (mean, variance) in zip(timesteps[1:], seen[1:], strict=True):
        expected_mean, expected_variance = marginal(SCHEDULE, t, 0.8)
        assert mean == pytest.approx(expected_mean, abs=1e-10)
        assert variance > expected_variance * 1.001


@marginal_ways
def test_drawn_samples_have_these_marginals_too(way: str, marginal: Callable[..., Any]) -> None:
    sampler, options = WAYS[way]
    n, timesteps, seen = 40_000, SCHEDULE.timesteps(5), []
    noises = _noises((n, 1, 1), 6)
    sampler(
        lambda x, *_: torch.full_like(x, 0.8),
        noises[5],
        SCHEDULE,
        timesteps,
        lambda i: noises[i],
        callback=lambda step: seen.append(step.x_t),
        **options,
    )
    for t, x_t in zip(timesteps, seen, strict=True):
        mean, variance = marginal(SCHEDULE, t, 0.8)
        # x_T is pure noise here, so sqrt(abar_T) * 0.8 = 0.005 of the mean is missing at first.
        assert x_t.mean().item() == pytest.approx(mean, abs=0.005 + 4 * (variance / n) ** 0.5)
        assert x_t.var().item() == pytest.approx(variance, rel=0.03)


def test_ddim_at_eta_one_is_ddpm() -> None:
    timesteps, noises = SCHEDULE.timesteps(6), _noises((2, 1, 4, 4), 7).double()
    arguments = (_denoise, noises[6], SCHEDULE, timesteps, lambda i: noises[i])
    assert torch.allclose(sample_ddim(*arguments, eta=1.0), sample_ddpm(*arguments), rtol=1e-10)


@every_way
@shapes
def test_order_of_the_batch_does_not_matter(way: str, shape: tuple[int, ...]) -> None:
    sampler, options = WAYS[way]
    noises, order = _noises(shape, 6), torch.tensor([2, 0, 1])
    timesteps = SCHEDULE.timesteps(5)
    straight = sampler(_denoise, noises[5], SCHEDULE, timesteps, lambda i: noises[i], **options)
    permuted = sampler(_denoise, noises[5][order], SCHEDULE, timesteps, lambda i: noises[i][order], **options)
    assert torch.equal(straight[order], permuted)


@every_way
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_steps_are_taken_in_float32_at_least(way: str, dtype: torch.dtype) -> None:
    sampler, options = WAYS[way]
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    seen: list[SamplerStep] = []
    noises = _noises((1, 1, 3, 3), 6).to(dtype)
    result = sampler(
        lambda x, t, p: _denoise(x, t, p).bfloat16(),  # a network under autocast
        noises[5],
        SCHEDULE,
        SCHEDULE.timesteps(5),
        lambda i: noises[i],
        callback=seen.append,
        **options,
    )
    assert {result.dtype, *(s.x_t.dtype for s in seen), *(s.x_0.dtype for s in seen)} == {kept}


@every_way
def test_noise_is_asked_for_once_a_random_step_and_not_for_the_last(way: str) -> None:
    sampler, options = WAYS[way]
    calls: list[int] = []

    def noise(index: int) -> Tensor:
        calls.append(index)
        return torch.zeros(1, 1, 2)

    sampler(_denoise, torch.zeros(1, 1, 2), SCHEDULE, SCHEDULE.timesteps(5), noise, **options)
    assert calls == ([] if way in ("ddpm-mean", "ddim", "dpm_solver++") else [0, 1, 2, 3])


@every_way
def test_callback_and_self_conditioning_see_each_step(way: str) -> None:
    sampler, options = WAYS[way]
    seen: list[SamplerStep] = []
    given: list[tuple[int, Tensor | None]] = []

    def denoise(x_t: Tensor, t: int, x0_prev: Tensor | None) -> Tensor:
        given.append((t, x0_prev))
        return _denoise(x_t, t, x0_prev)

    x_T = torch.ones(1, 1, 2)

    def see(step: SamplerStep) -> Any:
        seen.append(step)
        return len(seen)  # truthy, yet not True: no reason to stop

    result = sampler(denoise, x_T, SCHEDULE, [900, 400, 7], lambda _: x_T, callback=see, **options)
    assert [(s.index, s.t, s.t_prev) for s in seen] == [(0, 900, 400), (1, 400, 7), (2, 7, END)]
    assert torch.equal(seen[0].x_t, x_T)
    assert result is seen[-1].x_0
    assert [t for t, _ in given] == [900, 400, 7]
    assert given[0][1] is None
    assert given[1][1] is seen[0].x_0
    assert given[2][1] is seen[1].x_0
    with pytest.raises(FrozenInstanceError):
        seen[0].t = 1  # type: ignore[misc]


@every_way
def test_callback_that_returns_true_stops_there(way: str) -> None:
    sampler, options = WAYS[way]
    seen: list[SamplerStep] = []

    def stop_at_second(step: SamplerStep) -> bool:
        seen.append(step)
        return step.index == 1

    x_T = torch.ones(1, 1, 2)
    result = sampler(_denoise, x_T, SCHEDULE, [900, 400, 7], lambda _: x_T, callback=stop_at_second, **options)
    assert len(seen) == 2
    assert result is seen[1].x_0


@every_way
@pytest.mark.parametrize("timesteps", [[], [3, 3], [3, 5], [1001, 2], [4, END]])
def test_timesteps_that_do_not_fall_within_the_schedule_are_refused(way: str, timesteps: Sequence[int]) -> None:
    sampler, options = WAYS[way]
    x_T = torch.ones(1, 1, 2)
    with pytest.raises(SpecError, match=r"cannot visit the timesteps .*must fall strictly"):
        sampler(_denoise, x_T, SCHEDULE, timesteps, lambda _: x_T, **options)


def test_samplers_are_found_by_name() -> None:
    assert [get_sampler(name) for name in SAMPLERS] == [sample_ddpm, sample_ddim, sample_dpm_solver_pp]
    with pytest.raises(SpecError, match=r"no sampler 'plms': choose one of ddpm, ddim, dpm_solver\+\+"):
        get_sampler("plms")


def test_options_out_of_range_are_refused_before_the_first_prediction() -> None:
    def _fail(*_: object) -> Tensor:
        pytest.fail("asked for a prediction")

    x_T = torch.ones(1, 1, 2)
    with pytest.raises(SpecError, match="variance 'learned'"):
        sample_ddpm(_fail, x_T, SCHEDULE, [5], lambda _: x_T, variance="learned")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="eta is 2"):
        sample_ddim(_fail, x_T, SCHEDULE, [5], lambda _: x_T, eta=2)
