"""Builders of the noise schedules of the papers, and `build_schedule`, which finds them by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import NoiseSchedule


def build_schedule(name: str, **settings: Any) -> NoiseSchedule:
    """Build a schedule by its name; `build_schedule(s.name, **s.settings)` gives a schedule equal to `s`.

    Args:
        name: a key of `SCHEDULES`.
        settings: arguments of that builder; what is left out keeps the builder's default.

    Raises:
        SpecError: if the name or a setting does not exist, or the settings give no valid table.
    """
    if name not in SCHEDULES:
        msg = f"there is no noise schedule {name!r}: choose one of {', '.join(SCHEDULES)}"
        raise SpecError(msg)
    parameters = inspect.signature(SCHEDULES[name]).parameters.values()
    allowed = [p.name for p in parameters]
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in settings]
    unknown = [key for key in settings if key not in allowed]
    if missing or unknown:
        got = f"does not know {', '.join(unknown)}" if unknown else f"lacks {', '.join(missing)}"
        msg = f"the noise schedule {name!r} {got}: its settings are {', '.join(allowed)}"
        raise SpecError(msg)
    return SCHEDULES[name](**settings)


def linear_schedule(num_train_timesteps: int = 1001, beta_start: float = 1e-4, beta_end: float = 2e-2) -> NoiseSchedule:
    """beta rises linearly (Ho et al. 2020); the defaults are those of the recycling paper (Fu et al. 2023).

    Args:
        num_train_timesteps: T.
        beta_start: beta of timestep 0, in (0, 1).
        beta_end: beta of timestep T - 1, in (0, 1).
    """
    _validate(num_train_timesteps, beta_start=beta_start, beta_end=beta_end)
    return NoiseSchedule(
        _cumulate(_linear_betas(num_train_timesteps, beta_start, beta_end)),
        name="linear",
        num_train_timesteps=num_train_timesteps,
        beta_start=beta_start,
        beta_end=beta_end,
    )


def cosine_schedule(num_train_timesteps: int = 1001, s: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """abar_t = f(t) / f(0) with f(t) = cos^2(((t/T + s) / (1 + s)) pi/2) (Nichol & Dhariwal 2021, equation 17).

    Args:
        num_train_timesteps: T.
        s: offset that keeps the first betas from vanishing.
        max_beta: upper bound of each beta, below 1; without it abar would end at exactly 0.
    """
    _validate(num_train_timesteps, s=s, max_beta=max_beta)
    t = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    f = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
    return NoiseSchedule(
        _cumulate(betas), name="cosine", num_train_timesteps=num_train_timesteps, s=s, max_beta=max_beta
    )


def segdiff_schedule(num_train_timesteps: int = 100, rescale: bool = True) -> NoiseSchedule:
    """SegDiff's linear schedule (Amit et al. 2021): beta from 1e-4 k to 2e-2 k with k = 1000 / T.

    The paper prints k = 1, which at T = 100 leaves abar_T = 0.364: x_T would hold much of the truth in training and
    none of it in sampling. Its authors' release scales by k, which gives abar_T = 2.04e-5 and is the default here.
    (The printed formula, equation 15, also counts downwards; both choices rise with t.)

    Args:
        num_train_timesteps: T; above 20 when rescaled.
        rescale: False for the betas as printed.
    """
    _validate(num_train_timesteps)
    k = 1000 / num_train_timesteps if rescale else 1.0
    if 2e-2 * k >= 1:
        msg = (
            f"the rescaled SegDiff schedule over {num_train_timesteps} timesteps ends with beta {2e-2 * k:.4g}, "
            "which must be below 1: take more than 20 timesteps, or rescale=False"
        )
        raise SpecError(msg)
    return NoiseSchedule(
        _cumulate(_linear_betas(num_train_timesteps, 1e-4 * k, 2e-2 * k)),
        name="segdiff",
        num_train_timesteps=num_train_timesteps,
        rescale=rescale,
    )


def cdal_schedule(
    num_train_timesteps: int = 4, beta_min: float = 0.1, beta_max: float = 20.0, epsilon: float = 0.0
) -> NoiseSchedule:
    """cDAL's variance-preserving schedule for a handful of large steps (after Xiao et al. 2022).

    log abar(u) = -u^2 (beta_max - beta_min) / 2 - u beta_min, read at u_i = epsilon + (i / T) (1 - epsilon) for
    i = 1..T and taken relative to its value at u_0. The paper's formula has epsilon = 0. The release has
    epsilon = 1e-3 (and a further beta of 1e-8 in front, left out here: it stands for the clean end).

    Args:
        num_train_timesteps: T, 2 or 4 in the paper.
        beta_min: rate of noise at u = 0.
        beta_max: rate of noise at u = 1.
        epsilon: start of the time axis, in [0, 1).
    """
    _validate(num_train_timesteps, beta_min=beta_min, beta_max=beta_max, epsilon=epsilon)
    u = epsilon + torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps * (1 - epsilon)
    log_alphas_cumprod = -0.5 * u**2 * (beta_max - beta_min) - u * beta_min
    return NoiseSchedule(
        torch.exp(log_alphas_cumprod[1:] - log_alphas_cumprod[0]),
        name="cdal",
        num_train_timesteps=num_train_timesteps,
        beta_min=beta_min,
        beta_max=beta_max,
        epsilon=epsilon,
    )


def custom_schedule(alphas_cumprod: Tensor | Sequence[float]) -> NoiseSchedule:
    """A schedule from its table, the values abar_0 > abar_1 > … in (0, 1]."""
    return NoiseSchedule(alphas_cumprod)


SCHEDULES: dict[str, Callable[..., NoiseSchedule]] = {
    "linear": linear_schedule,
    "cosine": cosine_schedule,
    "segdiff": segdiff_schedule,
    "cdal": cdal_schedule,
    "custom": custom_schedule,
}
"""The builders by name, as they stand in `model.json`."""


def _linear_betas(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    return torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)


def _cumulate(betas: Tensor) -> Tensor:
    return torch.cumprod(1 - betas, dim=0)


def _validate(num_train_timesteps: int, **numbers: float) -> None:
    if isinstance(num_train_timesteps, bool) or not isinstance(num_train_timesteps, int) or num_train_timesteps < 1:
        msg = f"num_train_timesteps is {num_train_timesteps!r}: give a whole number of at least 1"
        raise SpecError(msg)
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            msg = f"{key} is {value!r}: give a finite number"
            raise SpecError(msg)
