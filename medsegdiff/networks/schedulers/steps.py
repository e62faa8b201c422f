"""Single steps of the samplers: from x_t and the predicted x_0 to x_{t_prev}, for any two visited timesteps."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import END, NoiseSchedule, validate_pair

VarianceKind = Literal["posterior", "beta", "none"]
VARIANCE_KINDS: tuple[VarianceKind, ...] = ("posterior", "beta", "none")


def ddpm_step(
    schedule: NoiseSchedule,
    x_t: Tensor,
    x_0: Tensor,
    noise: Tensor | None,
    t: int,
    t_prev: int,
    *,
    variance: VarianceKind = "posterior",
) -> Tensor:
    """One step of Ho et al. (2020), Algorithm 2, over the stretch from t to t_prev.

    The mean is that of the respaced posterior q(x_{t_prev} | x_t, x_0), see `NoiseSchedule.posterior`.

    Args:
        schedule: the noise schedule.
        x_t: noisy sample (B, …), floating point.
        x_0: prediction of the clean sample, same shape.
        noise: standard normal noise, same shape; not needed when t_prev is END or the variance "none".
        t: timestep of x_t.
        t_prev: the timestep to go to, smaller than t, or END.
        variance: "posterior" for beta-tilde (the recycling and SegDiff papers, cDAL's release), "beta" for the
            variance of the forward step (SegDiff's release), "none" for the mean alone (cDAL's Algorithm 2).

    Returns:
        x_{t_prev}, same shape and dtype as x_t; x_0 itself when t_prev is END.

    Raises:
        SpecError: if `variance` does not exist, or t_prev does not lie below t.
    """
    validate_variance(variance)
    posterior = schedule.posterior(t, t_prev)
    x_0 = x_0.to(x_t.dtype)
    if t_prev == END:
        return x_0
    mean = posterior.x_0 * x_0 + posterior.x_t * x_t
    if variance == "none":
        return mean
    std = (posterior.variance if variance == "posterior" else posterior.beta) ** 0.5
    return mean + std * _required(noise, t).to(x_t.dtype)


def ddim_step(
    schedule: NoiseSchedule,
    x_t: Tensor,
    x_0: Tensor,
    noise: Tensor | None,
    t: int,
    t_prev: int,
    *,
    eta: float = 0.0,
) -> Tensor:
    """One step of Song et al. (2020), equations 12 and 16, over the stretch from t to t_prev.

    Args:
        schedule: the noise schedule.
        x_t: noisy sample (B, …), floating point.
        x_0: prediction of the clean sample, same shape.
        noise: standard normal noise, same shape; not needed when eta is 0 or t_prev is END.
        t: timestep of x_t.
        t_prev: the timestep to go to, smaller than t, or END.
        eta: 0 is deterministic, 1 has the variance beta-tilde and equals DDPM; in [0, 1].

    Returns:
        x_{t_prev}, same shape and dtype as x_t; x_0 itself when t_prev is END.

    Raises:
        SpecError: if eta leaves [0, 1], or t_prev does not lie below t.
    """
    validate_eta(eta)
    std = eta * schedule.posterior(t, t_prev).variance ** 0.5  # (16): the posterior's beta-tilde, scaled
    x_0 = x_0.to(x_t.dtype)
    if t_prev == END:
        return x_0
    alpha_cumprod, alpha_cumprod_prev = schedule.alpha_cumprod_at(t), schedule.alpha_cumprod_at(t_prev)
    epsilon = (x_t - alpha_cumprod**0.5 * x_0) / (1 - alpha_cumprod) ** 0.5
    direction = max(1 - alpha_cumprod_prev - std**2, 0.0) ** 0.5  # rounding may leave -1e-17 at eta = 1
    x_prev = alpha_cumprod_prev**0.5 * x_0 + direction * epsilon
    return x_prev + std * _required(noise, t).to(x_t.dtype) if std > 0 else x_prev


def dpm_solver_pp_step(
    schedule: NoiseSchedule,
    x_t: Tensor,
    x_0: Tensor,
    t: int,
    t_prev: int,
    *,
    previous: tuple[Tensor, int] | None = None,
) -> Tensor:
    """One step of DPM-Solver++(2M), Lu et al. (2022), Algorithm 2.

    Args:
        schedule: the noise schedule.
        x_t: noisy sample (B, …), floating point.
        x_0: prediction of the clean sample, same shape.
        t: timestep of x_t.
        t_prev: the timestep to go to, smaller than t, or END.
        previous: the prediction of the clean sample of the step before this one and the timestep that it was made
            at; without it the step is of first order (and equals DDIM with eta 0).

    Returns:
        x_{t_prev}, same shape and dtype as x_t; x_0 itself when t_prev is END.

    Raises:
        SpecError: if t_prev does not lie below t.
    """
    validate_pair(t, t_prev)
    h = half_log_snr(schedule, t_prev) - half_log_snr(schedule, t)
    x_0 = x_0.to(x_t.dtype)
    if t_prev == END:
        return x_0
    direction = x_0  # D in the paper
    if previous is not None and math.isfinite(h):
        x_0_before, t_before = previous
        r = (half_log_snr(schedule, t) - half_log_snr(schedule, t_before)) / h
        direction = x_0 + (x_0 - x_0_before.to(x_t.dtype)) / (2 * r)
    alpha_cumprod, alpha_cumprod_prev = schedule.alpha_cumprod_at(t), schedule.alpha_cumprod_at(t_prev)
    shrink = ((1 - alpha_cumprod_prev) / (1 - alpha_cumprod)) ** 0.5  # sigma_prev / sigma
    return shrink * x_t - alpha_cumprod_prev**0.5 * math.expm1(-h) * direction


def half_log_snr(schedule: NoiseSchedule, t: int) -> float:
    """DPM-Solver's lambda_t = log(alpha_t / sigma_t), with alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t)."""
    return schedule.log_snr(t) / 2


def validate_variance(variance: str) -> None:
    """Raise SpecError if the variance is not one of `VARIANCE_KINDS`."""
    if variance not in VARIANCE_KINDS:
        msg = f"the DDPM variance {variance!r} does not exist: choose one of {', '.join(VARIANCE_KINDS)}"
        raise SpecError(msg)


def validate_eta(eta: float) -> None:
    """Raise SpecError if eta is not in [0, 1]."""
    if not 0 <= eta <= 1:
        msg = f"eta is {eta!r}: DDIM takes a number from 0 (deterministic) to 1 (as random as DDPM)"
        raise SpecError(msg)


def _required(noise: Tensor | None, t: int) -> Tensor:
    if noise is None:
        msg = f"the step at timestep {t} is random and got no noise: give standard normal noise of the sample's shape"
        raise SpecError(msg)
    return noise
