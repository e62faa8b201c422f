"""Single steps: what they need, and how they relate to each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import END, NoiseSchedule
from medsegdiff.networks.schedulers.steps import ddim_step, ddpm_step, dpm_solver_pp_step
from medsegdiff.networks.schedulers.tables import cdal_schedule, linear_schedule

SCHEDULE = linear_schedule()
X_T, X_0, NOISE = torch.randn(3, 2, 1, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _dpm(schedule: NoiseSchedule, x_t: Tensor, x_0: Tensor, noise: Tensor | None, t: int, t_prev: int) -> Tensor:
    return dpm_solver_pp_step(schedule, x_t, x_0, t, t_prev)


every_step = pytest.mark.parametrize("step", [ddpm_step, ddim_step, _dpm])


@every_step
def test_to_the_clean_end_gives_x_0_without_noise(step: Callable[..., Tensor]) -> None:
    for schedule in (SCHEDULE, NoiseSchedule([1.0, 0.5])):
        assert torch.equal(step(schedule, X_T, X_0, None, 0, END), X_0)


@every_step
def test_from_a_table_that_starts_clean_stays_finite(step: Callable[..., Tensor]) -> None:
    x = step(NoiseSchedule([1.0, 0.5, 0.1]), X_T, X_0, NOISE, 1, 0)
    assert torch.allclose(x, X_0)


def test_dpm_solver_does_not_extrapolate_over_an_infinite_stretch() -> None:
    schedule = NoiseSchedule([1.0, 0.5, 0.1])
    assert torch.allclose(dpm_solver_pp_step(schedule, X_T, X_0, 1, 0, previous=(NOISE, 2)), X_0)


@every_step
def test_refuses_to_go_upwards(step: Callable[..., Tensor]) -> None:
    with pytest.raises(SpecError, match="cannot step from timestep 3 to 4"):
        step(SCHEDULE, X_T, X_0, NOISE, 3, 4)


@pytest.mark.parametrize(("t", "t_prev"), [(1000, 750), (250, 0), (2, 1)])
def test_ddim_at_eta_one_is_ddpm(t: int, t_prev: int) -> None:
    ddim = ddim_step(SCHEDULE, X_T, X_0, NOISE, t, t_prev, eta=1.0)
    assert torch.allclose(ddim, ddpm_step(SCHEDULE, X_T, X_0, NOISE, t, t_prev), rtol=1e-10, atol=1e-12)


def test_first_order_dpm_solver_is_deterministic_ddim() -> None:
    dpm = dpm_solver_pp_step(SCHEDULE, X_T, X_0, 700, 300)
    assert torch.allclose(dpm, ddim_step(SCHEDULE, X_T, X_0, None, 700, 300), rtol=1e-10, atol=1e-12)


def test_dpm_solver_with_history_is_exact_for_x_0_that_is_linear_in_half_log_snr_up_to_third_order() -> None:
    # With x_0 = lambda the exact solution is (sigma'/sigma) x + sigma' * integral of e^u u du.
    lam = {t: SCHEDULE.log_snr(t) / 2 for t in (504, 502, 500)}
    sigma = {t: (1 - SCHEDULE.alpha_cumprod_at(t)) ** 0.5 for t in lam}
    x = torch.ones(1, dtype=torch.float64)
    primitive = {t: (lam[t] - 1) * torch.tensor(lam[t], dtype=torch.float64).exp() for t in lam}
    exact = sigma[500] / sigma[502] * x + sigma[500] * (primitive[500] - primitive[502])
    second = dpm_solver_pp_step(SCHEDULE, x, x * lam[502], 502, 500, previous=(x * lam[504], 504))
    first = dpm_solver_pp_step(SCHEDULE, x, x * lam[502], 502, 500)
    h = lam[500] - lam[502]
    assert (first - exact).abs().item() > h**2 / 10
    assert (second - exact).abs().item() < h**3


def test_beta_variance_adds_more_noise_to_the_same_mean() -> None:
    zero, one = torch.zeros_like(X_0), torch.ones_like(X_0)
    small, large = (
        [ddpm_step(SCHEDULE, X_T, X_0, n, 500, 250, variance=v) for n in (zero, one)] for v in ("posterior", "beta")
    )
    assert torch.equal(small[0], large[0])
    p = SCHEDULE.posterior(500, 250)
    assert torch.allclose(small[1] - small[0], one * p.variance**0.5)
    assert torch.allclose(large[1] - large[0], one * p.beta**0.5)


def test_without_variance_the_step_goes_to_the_mean_and_needs_no_noise() -> None:
    """As Algorithm 2 of Hejrati et al. (2024) prints it, with beta_t and abar of two neighbouring steps."""
    schedule = cdal_schedule(4)
    for t in (1, 2, 3):
        abar, abar_prev, beta = schedule.alphas_cumprod[t], schedule.alphas_cumprod[t - 1], schedule.betas[t]
        expected = (1 - beta).sqrt() * (1 - abar_prev) / (1 - abar) * X_T + abar_prev.sqrt() * beta / (1 - abar) * X_0
        assert torch.allclose(ddpm_step(schedule, X_T, X_0, None, t, t - 1, variance="none"), expected)
    zero = torch.zeros_like(X_0)
    random = ddpm_step(SCHEDULE, X_T, X_0, zero, 500, 250)
    assert torch.allclose(ddpm_step(SCHEDULE, X_T, X_0, None, 500, 250, variance="none"), random)


def test_random_steps_ask_for_their_noise() -> None:
    for step in (ddpm_step, partial(ddim_step, eta=0.3)):
        with pytest.raises(SpecError, match="the step at timestep 500 is random and got no noise"):
            step(SCHEDULE, X_T, X_0, None, 500, 250)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(SpecError, match="variance 'learned' does not exist: choose one of posterior, beta, none"):
        ddpm_step(SCHEDULE, X_T, X_0, NOISE, 5, 4, variance="learned")  # type: ignore[arg-type]
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(SpecError, match=r"eta is .*from 0"):
            ddim_step(SCHEDULE, X_T, X_0, NOISE, 5, 4, eta=eta)
