"""The noise schedule against the closed forms of the papers."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import END, NoiseSchedule
from medsegdiff.networks.schedulers.tables import linear_schedule

SCHEDULE = linear_schedule()
SHAPES = [(2, 1, 4, 5), (2, 3, 4, 5, 3)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["2-D", "3-D"])


class TestTimesteps:
    def test_are_those_of_the_recycling_paper(self) -> None:
        assert SCHEDULE.timesteps(5) == [1000, 750, 500, 250, 0]

    def test_one_step_visits_the_noisiest(self) -> None:
        assert SCHEDULE.timesteps(1) == [1000]

    @pytest.mark.parametrize("length", [1, 2, 7, 100, 1001])
    def test_any_number_of_them_falls_strictly_from_last_to_first(self, length: int) -> None:
        schedule = NoiseSchedule(torch.linspace(0.9, 0.1, length))
        for steps in range(1, length + 1):
            visited = schedule.timesteps(steps)
            assert len(visited) == len(set(visited)) == steps
            assert visited == sorted(visited, reverse=True)
            assert visited[0] == length - 1
            assert steps == 1 or visited[-1] == 0
        assert visited == list(range(length - 1, -1, -1))

    def test_are_evenly_spaced_to_half_a_step(self) -> None:
        visited = SCHEDULE.timesteps(38)
        exact = [1000 - 1000 * k / 37 for k in range(38)]
        assert max(abs(t - e) for t, e in zip(visited, exact, strict=True)) <= 0.5

    @pytest.mark.parametrize("steps", [0, -1, 1002, 2.5, True])
    def test_refuses_a_number_it_cannot_visit(self, steps: int) -> None:
        with pytest.raises(SpecError, match=rf"cannot visit {steps} timesteps.*has 1001.*from 1 to 1001"):
            SCHEDULE.timesteps(steps)


class TestTable:
    def test_refuses_what_is_no_schedule(self) -> None:
        for table in ([0.5, 0.6], [0.5, 0.5], [1.1, 0.5], [0.5, 0.0], [0.5, math.nan]):
            with pytest.raises(SpecError, match=r"must fall strictly and stay in \(0, 1\]"):
                NoiseSchedule(table)
        for shape in ((0,), (), (2, 2)):
            with pytest.raises(SpecError, match="one-dimensional table with at least one timestep"):
                NoiseSchedule(torch.full(shape, 0.5))

    def test_cannot_be_altered_from_outside(self) -> None:
        table = torch.tensor([0.9, 0.5], dtype=torch.float64)
        schedule = NoiseSchedule(table)
        table.zero_()
        schedule.alphas_cumprod.zero_()
        schedule.settings["alphas_cumprod"][0] = 0.0
        assert schedule.alphas_cumprod.tolist() == [0.9, 0.5] == schedule.settings["alphas_cumprod"]

    def test_is_not_altered_by_half_precision_samples(self) -> None:
        schedule, x = linear_schedule(), torch.ones(1, 1, 2, dtype=torch.float16)
        schedule.add_noise(x, x, 3)
        assert schedule == SCHEDULE
        assert schedule.alphas_cumprod.dtype == torch.float64

    def test_betas_rebuild_it(self) -> None:
        assert torch.allclose(torch.cumprod(1 - SCHEDULE.betas, 0), SCHEDULE.alphas_cumprod, rtol=1e-12)

    def test_survives_pickling_and_is_hashable(self) -> None:
        again = pickle.loads(pickle.dumps(SCHEDULE))
        assert again == SCHEDULE
        assert len({again, SCHEDULE}) == 1
        assert again != linear_schedule(10)
        assert again != "linear"

    def test_snr_is_infinite_at_the_clean_end(self) -> None:
        assert SCHEDULE.alpha_cumprod_at(END) == 1.0
        assert SCHEDULE.log_snr(END) == math.inf
        assert SCHEDULE.snr(0) == pytest.approx((1 - 1e-4) / 1e-4)
        assert math.exp(SCHEDULE.log_snr(500)) == pytest.approx(SCHEDULE.snr(500))

    @pytest.mark.parametrize("t", [1001, -2])
    def test_refuses_a_timestep_outside(self, t: int) -> None:
        with pytest.raises(SpecError, match=rf"timestep {t} does not exist: give one from 0 to 1000"):
            SCHEDULE.alpha_cumprod_at(t)


class TestAddNoise:
    @shapes
    def test_is_the_closed_form_for_each_item(self, shape: tuple[int, ...]) -> None:
        x_0, noise, t = torch.randn(shape), torch.randn(shape), torch.tensor([0, 700])
        x_t = SCHEDULE.add_noise(x_0, noise, t)
        for item, step in enumerate(t.tolist()):
            abar = SCHEDULE.alphas_cumprod[step].item()
            assert torch.allclose(x_t[item], abar**0.5 * x_0[item] + (1 - abar) ** 0.5 * noise[item], atol=1e-6)
            assert torch.allclose(x_t[item], SCHEDULE.add_noise(x_0, noise, step)[item])

    @pytest.mark.parametrize(
        ("dtype", "out"),
        [(torch.float64,) * 2, (torch.float32,) * 2, (torch.float16, torch.float32), (torch.bfloat16, torch.float32)],
    )
    def test_computes_in_float32_at_least(self, dtype: torch.dtype, out: torch.dtype) -> None:
        x_0, noise = torch.ones(1, 1, 3, dtype=dtype), torch.zeros(1, 1, 3, dtype=dtype)
        x_t = SCHEDULE.add_noise(x_0, noise, torch.tensor([1000]))
        assert x_t.dtype == out
        # Half precision of the table would miss sqrt(abar_T) by far more.
        assert x_t[0, 0, 0].item() == pytest.approx(SCHEDULE.alphas_cumprod[-1].item() ** 0.5, rel=1e-6)

    def test_at_the_clean_end_changes_nothing(self) -> None:
        x_0 = torch.randn(2, 1, 3)
        assert torch.equal(SCHEDULE.add_noise(x_0, torch.randn(2, 1, 3), END), x_0)

    @pytest.mark.parametrize("t", [torch.tensor([1, 2, 3]), torch.tensor([0.5, 0.5]), torch.zeros(2, 1).long()])
    def test_refuses_timesteps_that_do_not_fit_the_batch(self, t: torch.Tensor) -> None:
        with pytest.raises(SpecError, match=r"for a batch of 2: give one whole number, or integers of shape \(2,\)"):
            SCHEDULE.add_noise(torch.zeros(2, 1), torch.zeros(2, 1), t)


class TestPosterior:
    def test_between_neighbours_is_equation_7_of_ddpm(self) -> None:
        beta, abar = SCHEDULE.betas, SCHEDULE.alphas_cumprod
        for t in (1, 500, 1000):
            p, shrink = SCHEDULE.posterior(t, t - 1), (1 - abar[t - 1]) / (1 - abar[t])
            assert p.beta == pytest.approx(beta[t].item())
            assert p.variance == pytest.approx((shrink * beta[t]).item())
            assert p.x_0 == pytest.approx((abar[t - 1].sqrt() * beta[t] / (1 - abar[t])).item())
            assert p.x_t == pytest.approx(((1 - beta[t]).sqrt() * shrink).item())

    def test_respaced_betas_are_those_of_the_recycling_paper(self) -> None:
        visited = SCHEDULE.timesteps(5)
        betas = [SCHEDULE.posterior(t, prev).beta for t, prev in zip(visited, [*visited[1:], END], strict=True)]
        assert betas == pytest.approx([0.98796, 0.95745, 0.85052, 0.4782, 1e-4], abs=5e-6)

    @pytest.mark.parametrize(("t", "t_prev"), [(1000, 750), (250, 0), (3, 2), (1000, 0), (0, END), (1000, END)])
    def test_leads_from_marginal_to_marginal(self, t: int, t_prev: int) -> None:
        p = SCHEDULE.posterior(t, t_prev)
        abar, abar_prev = SCHEDULE.alpha_cumprod_at(t), SCHEDULE.alpha_cumprod_at(t_prev)
        assert p.x_0 + p.x_t * abar**0.5 == pytest.approx(abar_prev**0.5, abs=1e-12)
        assert p.x_t**2 * (1 - abar) + p.variance == pytest.approx(1 - abar_prev, abs=1e-12)

    def test_of_two_stretches_is_that_of_the_whole(self) -> None:
        first, second, whole = SCHEDULE.posterior(900, 400), SCHEDULE.posterior(400, 30), SCHEDULE.posterior(900, 30)
        assert second.x_t * first.x_t == pytest.approx(whole.x_t)
        assert second.x_0 + second.x_t * first.x_0 == pytest.approx(whole.x_0)
        assert second.x_t**2 * first.variance + second.variance == pytest.approx(whole.variance)

    def test_to_the_clean_end_is_x_0_itself(self) -> None:
        for schedule in (SCHEDULE, NoiseSchedule([1.0, 0.5])):
            assert schedule.posterior(0, END)[:3] == (1.0, 0.0, 0.0)
            x_0 = torch.randn(2, 1, 3)
            assert torch.equal(schedule.posterior_sample(x_0, torch.randn(2, 1, 3), torch.randn(2, 1, 3), 0, END), x_0)

    @pytest.mark.parametrize(("t", "t_prev"), [(5, 5), (5, 6), (END, END)])
    def test_refuses_to_step_upwards(self, t: int, t_prev: int) -> None:
        with pytest.raises(SpecError, match=f"cannot step from timestep {t} to {t_prev}"):
            SCHEDULE.posterior(t, t_prev)

    @shapes
    def test_sample_takes_each_items_own_pair(self, shape: tuple[int, ...]) -> None:
        x_0, x_t, noise = torch.randn(shape), torch.randn(shape), torch.randn(shape)
        t, t_prev = torch.tensor([800, 0]), torch.tensor([799, END])
        drawn = SCHEDULE.posterior_sample(x_0, x_t, noise, t, t_prev)
        p = SCHEDULE.posterior(800, 799)
        assert torch.allclose(drawn[0], p.x_0 * x_0[0] + p.x_t * x_t[0] + p.variance**0.5 * noise[0], atol=1e-6)
        assert torch.equal(drawn[1], x_0[1])
        mixed = SCHEDULE.posterior_sample(x_0, x_t, noise, 800, torch.tensor([799, 3]))
        assert torch.allclose(mixed[0], drawn[0])
        assert SCHEDULE.posterior_sample(x_0.half(), x_t, noise, t, t_prev).dtype == torch.float32
