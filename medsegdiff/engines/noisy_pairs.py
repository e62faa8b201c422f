"""Pairs of neighbouring noisy masks, (x_prev, x_t), as cDAL's discriminator sees them.

x_prev stands one step below x_t: at t - 1, and for t = 0 at the clean end, where it is x_0 itself. Real pairs are made
from the truth, fake ones from the generator's prediction at the same x_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medsegdiff.data.noise import TrainingNoise
from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import NoiseSchedule

REAL_PAIRS = ("markov", "algorithm_1")
FAKE_PAIRS = ("posterior", "algorithm_1")


@dataclass(frozen=True)
class NoisyPair:
    """A mask at two neighbouring time steps.

    Attributes:
        x_prev: (B, C, *S), one step less noisy than x_t.
        x_t: (B, C, *S).
        t: 0-based time steps (B,) of x_t; those of x_prev are t - 1, which for t = 0 is `END`.
        noise: the noise in x_prev, (B, C, *S).
    """

    x_prev: torch.Tensor
    x_t: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor


def real_pair(
    schedule: NoiseSchedule, x_0: torch.Tensor, t: torch.Tensor, noise: TrainingNoise, kind: str = "markov"
) -> NoisyPair:
    """A pair of the truth.

    Args:
        schedule: the noise schedule.
        x_0: clean masks (B, C, *S).
        t: time steps (B,).
        noise: of this batch.
        kind: "markov" draws x_t from q(x_t | x_prev), with a noise of its own (section 2.2 and the release);
            "algorithm_1" puts one and the same noise into both, as the printed Algorithm 1 does.

    Raises:
        SpecError: no such kind.
    """
    check_kind("real_pair", kind, REAL_PAIRS)
    eps = noise.normal(x_0.shape[1:])  # (B, C, *S)
    x_prev = schedule.add_noise(x_0, eps, t - 1)  # (B, C, *S)
    if kind == "algorithm_1":
        return NoisyPair(x_prev, schedule.add_noise(x_0, eps, t), t, eps)
    beta = schedule.betas.to(x_prev)[t].view(-1, *(1,) * (x_0.ndim - 1))  # (B, 1, …)
    x_t = (1 - beta).sqrt() * x_prev + beta.sqrt() * noise.normal(x_0.shape[1:])  # (B, C, *S)
    return NoisyPair(x_prev, x_t, t, eps)


def fake_x_prev(
    schedule: NoiseSchedule, x_0: torch.Tensor, pair: NoisyPair, noise: TrainingNoise, kind: str = "posterior"
) -> torch.Tensor:
    """What a predicted x_0 makes of x_prev, (B, C, *S); for t = 0 it is the prediction itself.

    Args:
        schedule: the noise schedule.
        x_0: the generator's prediction (B, C, *S) at `pair.x_t`.
        pair: the real pair.
        noise: of this batch.
        kind: "posterior" draws from q(x_prev | x_t, x_0) (section 2.2 and the release); "algorithm_1" is
            q(x_0, t - 1, eps) with the noise of the real x_prev, as the printed Algorithm 1 has it.

    Raises:
        SpecError: no such kind.
    """
    check_kind("fake_pair", kind, FAKE_PAIRS)
    if kind == "algorithm_1":
        return schedule.add_noise(x_0, pair.noise, pair.t - 1)
    return schedule.posterior_sample(x_0, pair.x_t, noise.normal(x_0.shape[1:]), pair.t, pair.t - 1)


def check_kind(name: str, kind: str, allowed: tuple[str, ...]) -> None:
    """Raise SpecError unless an option has one of its values."""
    if kind not in allowed:
        msg = f"{name} {kind!r} does not exist; use one of {', '.join(allowed)}"
        raise SpecError(msg)
