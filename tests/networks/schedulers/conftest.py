"""Exact propagation of mean and variance through a sampler, shared by the tests of the samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from medsegdiff.networks.schedulers.samplers import Denoise, Sampler, SamplerStep
from medsegdiff.networks.schedulers.schedule import NoiseSchedule

Moments = tuple[float, float]
"""Mean and variance of a scalar."""


@pytest.fixture(scope="session")
def marginal() -> Callable[..., Moments]:
    """See `_marginal`."""
    return _marginal


@pytest.fixture(scope="session")
def propagate() -> Callable[..., tuple[list[Moments], Moments]]:
    """See `_propagate`."""
    return _propagate


def _marginal(schedule: NoiseSchedule, t: int, mean: float, variance: float = 0.0) -> Moments:
    """The moments of x_t when x_0 has these."""
    abar = schedule.alpha_cumprod_at(t)
    return abar**0.5 * mean, abar * variance + 1 - abar


def _propagate(
    sampler: Sampler,
    denoise: Denoise,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    *,
    start: Moments,
    **options: Any,
) -> tuple[list[Moments], Moments]:
    """The moments of x_t at every visited timestep and of the result, without drawing a single number.

    With a denoiser that is affine in x_t everything is affine in x_T and in the noises. So the batch holds the chain
    without any noise (its mean), the chain with x_T's noise alone at 1, and one chain for the noise of each step.
    """

    def noise(index: int) -> Tensor:
        unit = torch.zeros_like(x_T)
        unit[2 + index] = 1.0
        return unit

    def moments(x: Tensor) -> Moments:
        return x[0].item(), (x[1:] - x[0]).square().sum().item()

    mean, variance = start
    x_T = torch.full((2 + len(timesteps), 1, 1, 1), mean, dtype=torch.float64)
    x_T[1] += variance**0.5
    seen: list[Moments] = []

    def see(step: SamplerStep) -> None:
        seen.append(moments(step.x_t))

    result = sampler(denoise, x_T, schedule, timesteps, noise, callback=see, **options)
    return seen, moments(result)
