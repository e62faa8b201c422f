"""Samplers as pure loops over pairs (t, t_prev) that are read from the list of visited timesteps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import END, NoiseSchedule
from medsegdiff.networks.schedulers.steps import (
    VarianceKind,
    ddim_step,
    ddpm_step,
    dpm_solver_pp_step,
    validate_eta,
    validate_variance,
)

Denoise = Callable[[Tensor, int, Tensor | None], Tensor]
"""(x_t, t, x0_prev) -> x0_hat, all (B, …); x0_prev is the previous step's x0_hat, None at first (self-conditioning)."""

Noise = Callable[[int], Tensor]
"""index of the step -> standard normal noise of x_t's shape; called only for steps that use it."""


@dataclass(frozen=True, eq=False)
class SamplerStep:
    """What a callback is told at each visited timestep, after the prediction and before the step."""

    index: int
    """Position in the list of visited timesteps, from 0."""
    t: int
    """The visited timestep."""
    t_prev: int
    """The next one, less noisy, or END."""
    x_t: Tensor
    """The noisy sample at t."""
    x_0: Tensor
    """The clean sample that was predicted from it."""


Callback = Callable[[SamplerStep], bool | None]
"""Sees each step; returning True stops the sampling there, with that step's x_0 as the result."""


def sample_ddpm(
    denoise: Denoise,
    x_T: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    variance: VarianceKind = "posterior",
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling: Ho et al. (2020), Algorithm 2, respaced as in Nichol & Dhariwal (2021, section 4).

    Args:
        denoise: predicts x_0, see `Denoise`.
        x_T: noise to start from (B, …), at `timesteps[0]`.
        schedule: the noise schedule that the denoiser was trained with.
        timesteps: the visited timesteps, strictly decreasing within 0..T-1, see `NoiseSchedule.timesteps`.
        noise: gives each step's noise, see `Noise`; the last step has none, and none has with the variance "none".
        variance: "posterior" for beta-tilde, "beta" for the variance of the forward step, "none" to go to the mean.
        callback: sees each step, see `Callback`.

    Returns:
        x0_hat of the last visited timestep, (B, …): float64 if x_T is, float32 otherwise.

    Raises:
        SpecError: if `timesteps` or `variance` are not as above.
    """
    validate_variance(variance)
    x_t, x_0 = _at_least_float32(x_T), None
    for index, t, t_prev in _pairs(timesteps, schedule):
        x_0 = denoise(x_t, t, x_0).to(x_t.dtype)
        if _stops(callback, SamplerStep(index, t, t_prev, x_t, x_0)) or t_prev == END:
            break
        added = None if variance == "none" else noise(index)
        x_t = ddpm_step(schedule, x_t, x_0, added, t, t_prev, variance=variance)
    return _predicted(x_0)


def sample_ddim(
    denoise: Denoise,
    x_T: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Song et al. (2020), equations 12 and 16: deterministic at eta = 0, DDPM at eta = 1.

    Args:
        denoise: predicts x_0, see `Denoise`.
        x_T: noise to start from (B, …), at `timesteps[0]`.
        schedule: the noise schedule that the denoiser was trained with.
        timesteps: the visited timesteps, strictly decreasing within 0..T-1, see `NoiseSchedule.timesteps`.
        noise: gives each step's noise, see `Noise`; never called at eta = 0, nor for the last step.
        eta: share of DDPM's standard deviation, in [0, 1].
        callback: sees each step, see `Callback`.

    Returns:
        x0_hat of the last visited timestep, (B, …): float64 if x_T is, float32 otherwise.

    Raises:
        SpecError: if `timesteps` or `eta` are not as above.
    """
    validate_eta(eta)
    x_t, x_0 = _at_least_float32(x_T), None
    for index, t, t_prev in _pairs(timesteps, schedule):
        x_0 = denoise(x_t, t, x_0).to(x_t.dtype)
        if _stops(callback, SamplerStep(index, t, t_prev, x_t, x_0)) or t_prev == END:
            break
        x_t = ddim_step(schedule, x_t, x_0, noise(index) if eta > 0 else None, t, t_prev, eta=eta)
    return _predicted(x_0)


def sample_dpm_solver_pp(
    denoise: Denoise,
    x_T: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al. (2022), Algorithm 2; deterministic.

    The first step is of first order, since there is no history; so is the one into the last visited timestep, where
    log SNR leaps: with evenly spaced timesteps, extrapolating there makes 10 to 20 steps worse than DDIM's. The step
    to the clean end is x0_hat itself.

    Args:
        denoise: predicts x_0, see `Denoise`.
        x_T: noise to start from (B, …), at `timesteps[0]`.
        schedule: the noise schedule that the denoiser was trained with.
        timesteps: the visited timesteps, strictly decreasing within 0..T-1, see `NoiseSchedule.timesteps`.
        noise: never called; here so that all samplers are called alike.
        callback: sees each step, see `Callback`.

    Returns:
        x0_hat of the last visited timestep, (B, …): float64 if x_T is, float32 otherwise.

    Raises:
        SpecError: if `timesteps` is not as above.
    """
    x_t, x_0 = _at_least_float32(x_T), None
    previous: tuple[Tensor, int] | None = None
    for index, t, t_prev in _pairs(timesteps, schedule):
        x_0 = denoise(x_t, t, x_0).to(x_t.dtype)
        if _stops(callback, SamplerStep(index, t, t_prev, x_t, x_0)) or t_prev == END:
            break
        history = None if t_prev == timesteps[-1] else previous
        x_t = dpm_solver_pp_step(schedule, x_t, x_0, t, t_prev, previous=history)
        previous = (x_0, t)
    return _predicted(x_0)


Sampler = Callable[..., Tensor]

SAMPLERS: dict[str, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpm_solver++": sample_dpm_solver_pp,
}
"""The samplers by name, as they stand in `model.json`."""


def get_sampler(name: str) -> Sampler:
    """The sampler of that name.

    Raises:
        SpecError: if there is none; the message lists those there are.
    """
    if name not in SAMPLERS:
        msg = f"there is no sampler {name!r}: choose one of {', '.join(SAMPLERS)}"
        raise SpecError(msg)
    return SAMPLERS[name]


def _pairs(timesteps: Sequence[int], schedule: NoiseSchedule) -> list[tuple[int, int, int]]:
    """(index, t, t_prev) of each visited timestep; t_prev of the last is END."""
    steps = list(timesteps)
    ordered = all(t > t_prev for t, t_prev in pairwise(steps))
    if not steps or not ordered or steps[-1] < 0 or steps[0] >= schedule.num_train_timesteps:
        msg = (
            f"cannot visit the timesteps {steps}: they must fall strictly, from {schedule.num_train_timesteps - 1} at "
            "most to 0 at least; take them from the schedule's timesteps(steps)"
        )
        raise SpecError(msg)
    return [(index, t, t_prev) for index, (t, t_prev) in enumerate(zip(steps, [*steps[1:], END], strict=True))]


def _stops(callback: Callback | None, step: SamplerStep) -> bool:
    # Only True itself: a callback that ends in some truthy expression by chance must not cut a sampling short.
    return callback is not None and callback(step) is True


def _at_least_float32(x_T: Tensor) -> Tensor:
    return x_T if x_T.dtype == torch.float64 else x_T.float()


def _predicted(x_0: Tensor | None) -> Tensor:
    if x_0 is None:  # `_pairs` refuses an empty list, so that at least one prediction was made
        msg = "no timestep was visited"
        raise RuntimeError(msg)
    return x_0
