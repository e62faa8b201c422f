"""Training strategies: what the network is shown, and at which time, in one training step.

A strategy is a function of (segmenter, image, x_0, t, noise). It makes the noisy input, calls the network and returns
its output with what the loss needs. No engine is inside, so a network of two lines can test it. Equation numbers are
those of Fu et al. (2023); the misprint of its equation (5a) is mended (the variance of x_{t+1} is 1 - abar_{t+1}).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from medsegdiff.data.noise import TrainingNoise
from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import NoiseSchedule
from medsegdiff.networks.segmenter import DiffusionSegmenter
from medsegdiff.networks.wrapping import unwrapped

SELF_CONDITIONING_PROBABILITY = 0.5


@dataclass(frozen=True)
class StrategyOutput:
    """One training step's prediction.

    Attributes:
        output: the denoiser's output (B, C, *S), with gradient.
        x_t: the noisy mask it saw (B, C, *S).
        t: the time steps it was told (B,).
        noise: the noise in x_t (B, C, *S), the target of networks that predict it.
    """

    output: torch.Tensor
    x_t: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor


Strategy = Callable[..., StrategyOutput]


def supervised(
    segmenter: nn.Module, image: torch.Tensor, x_0: torch.Tensor, t: torch.Tensor, noise: TrainingNoise
) -> StrategyOutput:
    """No diffusion: the network sees the image alone."""
    nothing = x_0.new_zeros((len(x_0), 0, *x_0.shape[2:]))
    return StrategyOutput(segmenter(image, nothing, t), nothing, t, nothing)


def diffusion(
    segmenter: nn.Module, image: torch.Tensor, x_0: torch.Tensor, t: torch.Tensor, noise: TrainingNoise
) -> StrategyOutput:
    """Standard diffusion: x_t made from the truth, equation (3)."""
    return _denoise_at(segmenter, image, x_0, t, noise)


def recycling(
    segmenter: nn.Module,
    image: torch.Tensor,
    x_0: torch.Tensor,
    t: torch.Tensor,
    noise: TrainingNoise,
    *,
    first_pass: nn.Module | None = None,
) -> StrategyOutput:
    """Recycling from x_T, equation (4): x_t is made from what the network predicts from (almost) pure noise.

    The two passes take independent noises. As in the paper x_T holds the truth with coefficient sqrt(abar_T), .006 at
    T = 1001. Only the second pass has a gradient.

    Args:
        segmenter: the network in training.
        image: (B, image channels, *S).
        x_0: (B, C, *S).
        t: time steps (B,) in 0..T-2.
        noise: of this batch.
        first_pass: a network to predict with in the first pass, such as the averaged (EMA) one; by default the
            network in training itself.
    """
    last = torch.full_like(t, _schedule_of(segmenter).num_train_timesteps - 1)
    return _recycle_from(segmenter, image, x_0, t, last, noise, first_pass)


def recycling_next(
    segmenter: nn.Module,
    image: torch.Tensor,
    x_0: torch.Tensor,
    t: torch.Tensor,
    noise: TrainingNoise,
    *,
    first_pass: nn.Module | None = None,
) -> StrategyOutput:
    """Recycling from x_{t+1}, equation (5): the version of the workshop paper. Arguments as `recycling`."""
    return _recycle_from(segmenter, image, x_0, t, t + 1, noise, first_pass)


def self_conditioning(
    segmenter: nn.Module, image: torch.Tensor, x_0: torch.Tensor, t: torch.Tensor, noise: TrainingNoise
) -> StrategyOutput:
    """Self-conditioning at the same time, equation (7), after Chen et al. (2022).

    The same x_t is shown twice; the second time with the first prediction beside it, which is dropped to zeros for a
    sample with probability one half.
    """
    schedule = _schedule_of(segmenter)
    eps = noise.normal(x_0.shape[1:])
    x_t = schedule.add_noise(x_0, eps, t)
    x0_prev = _drop_half(_predict_x_0(segmenter, image, x_t, t), noise)
    return StrategyOutput(segmenter(image, x_t, t, x0_prev), x_t, t, eps)


def self_conditioning_next(
    segmenter: nn.Module, image: torch.Tensor, x_0: torch.Tensor, t: torch.Tensor, noise: TrainingNoise
) -> StrategyOutput:
    """Self-conditioning from the step before, equation (8), after Watson et al. (2023).

    The first pass sees x_{t+1}; x_t is then drawn from the posterior q(x_t | x_{t+1}, x_0) of the truth, as printed.
    (The release feeds x_{t+1} to the second pass as well, which is taken for an oversight and not offered.)
    """
    schedule = _schedule_of(segmenter)
    x_next = schedule.add_noise(x_0, noise.normal(x_0.shape[1:]), t + 1)
    x0_prev = _drop_half(_predict_x_0(segmenter, image, x_next, t + 1), noise)
    x_t = schedule.posterior_sample(x_0, x_next, noise.normal(x_0.shape[1:]), t + 1, t)
    signal, spread = schedule.scales(t, x_0)
    eps = (x_t - signal * x_0) / spread
    return StrategyOutput(segmenter(image, x_t, t, x0_prev), x_t, t, eps)


STRATEGIES: dict[str, Strategy] = {
    "supervised": supervised,
    "diffusion": diffusion,
    "recycling": recycling,
    "recycling_next": recycling_next,
    "self_conditioning": self_conditioning,
    "self_conditioning_next": self_conditioning_next,
}
# Strategies whose first pass stands at t + 1 or T must not be asked for the last time step.
STARTS_ABOVE_T = frozenset({"recycling", "recycling_next", "self_conditioning_next"})
TAKES_FIRST_PASS = frozenset({"recycling", "recycling_next"})


def get_strategy(name: str) -> Strategy:
    """The strategy of a name.

    Raises:
        SpecError: no such strategy; the message lists those there are.
    """
    if name not in STRATEGIES:
        msg = f"strategy {name!r} does not exist; use one of {', '.join(STRATEGIES)}"
        raise SpecError(msg)
    return STRATEGIES[name]


def num_times(name: str, num_train_timesteps: int) -> int:
    """How many time steps 0, 1, … a strategy may be asked for."""
    return num_train_timesteps - 1 if name in STARTS_ABOVE_T else num_train_timesteps


def _inner(segmenter: nn.Module) -> DiffusionSegmenter:
    """The segmenter itself: DDP keeps it as `module`."""
    return cast(DiffusionSegmenter, unwrapped(segmenter))


def _schedule_of(segmenter: nn.Module) -> NoiseSchedule:
    schedule = _inner(segmenter).schedule
    if schedule is None:
        msg = "this strategy needs a network with a noise schedule, got a supervised one; use the strategy 'supervised'"
        raise SpecError(msg)
    return schedule


def _denoise_at(
    segmenter: nn.Module, image: torch.Tensor, x_0: torch.Tensor, t: torch.Tensor, noise: TrainingNoise
) -> StrategyOutput:
    eps = noise.normal(x_0.shape[1:])
    x_t = _schedule_of(segmenter).add_noise(x_0, eps, t)
    return StrategyOutput(segmenter(image, x_t, t), x_t, t, eps)


def _recycle_from(
    segmenter: nn.Module,
    image: torch.Tensor,
    x_0: torch.Tensor,
    t: torch.Tensor,
    t_first: torch.Tensor,
    noise: TrainingNoise,
    first_pass: nn.Module | None,
) -> StrategyOutput:
    x_first = _schedule_of(segmenter).add_noise(x_0, noise.normal(x_0.shape[1:]), t_first)
    recycled = _predict_x_0(segmenter if first_pass is None else first_pass, image, x_first, t_first)
    return _denoise_at(segmenter, image, recycled, t, noise)


@torch.no_grad()
def _predict_x_0(segmenter: nn.Module, image: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    # Through the inner module: a pass without gradient is none of DDP's business.
    inner = _inner(segmenter)
    return inner.prediction.to_x_0(inner(image, x_t, t), x_t, t, inner.schedule)


def _drop_half(x0_prev: torch.Tensor, noise: TrainingNoise) -> torch.Tensor:
    keep = (noise.uniform() >= SELF_CONDITIONING_PROBABILITY).to(x0_prev)
    return x0_prev * keep.view(-1, *(1,) * (x0_prev.ndim - 1))
