"""The MONAI face: right where the stock schedulers are not, equal to them where they are, usable by MONAI's inferer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, Scheduler
from torch import Tensor, nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.monai_scheduler import SegmentationScheduler
from medsegdiff.networks.schedulers.samplers import get_sampler

ORACLE = 0.8

# Seen in MONAI 1.6.1 (Project-MONAI/MONAI#8600, #8623). When one of these marks makes the suite fail with XPASS, MONAI
# has mended its scheduler: say so in SegmentationScheduler's docstring and drop the mark.
ddpm_defect = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="DDPMScheduler.step takes alphas_cumprod[t - 1] for any spacing: mean 0.00 instead of 0.58 at t = 250",
)
ddim_defect = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="DDIMScheduler.step goes to t - T // n, not to the next timestep: 0.755/0.198 at the end, not 0.80/0.01",
)


@pytest.mark.parametrize(
    "scheduler",
    [
        pytest.param(SegmentationScheduler(1001), id="ours-ddpm"),
        pytest.param(SegmentationScheduler(1001, sampler="ddim"), id="ours-ddim"),
        pytest.param(SegmentationScheduler(1001, sampler="ddim", eta=0.5), id="ours-ddim-half"),
        pytest.param(DDPMScheduler(1001, prediction_type="sample"), id="stock-ddpm", marks=ddpm_defect),
        pytest.param(DDIMScheduler(1001, prediction_type="sample"), id="stock-ddim", marks=ddim_defect),
    ],
)
def test_five_steps_pass_through_the_marginals(scheduler: Any) -> None:
    scheduler.set_timesteps(5)
    # Not the seed of the global generator, whose noise must be independent of this.
    x = torch.randn(40_000, 1, 1, generator=torch.Generator().manual_seed(7))
    moments = {}
    for t in scheduler.timesteps.tolist():
        moments[t] = (x.mean().item(), x.std().item())
        x, _ = scheduler.step(torch.full_like(x, ORACLE), t, x)
    assert list(moments) == [1000, 750, 500, 250, 0]
    assert moments[250] == pytest.approx((0.722 * ORACLE, 0.692), abs=0.015)
    assert moments[0] == pytest.approx((ORACLE, 0.010), abs=0.001)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize(("variance", "theirs"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
def test_when_every_timestep_is_visited_stock_ddpm_says_the_same(
    prediction_type: Any, variance: Any, theirs: str
) -> None:
    stock = DDPMScheduler(30, prediction_type=prediction_type, variance_type=theirs, clip_sample=False)
    _assert_same_steps(SegmentationScheduler(30, prediction_type=prediction_type, variance=variance), stock)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_when_every_timestep_is_visited_stock_ddim_says_the_same(prediction_type: Any) -> None:
    stock = DDIMScheduler(30, prediction_type=prediction_type, clip_sample=False)
    _assert_same_steps(SegmentationScheduler(30, sampler="ddim", prediction_type=prediction_type), stock)


def _assert_same_steps(mine: Any, theirs: Any) -> None:
    assert torch.equal(mine.timesteps, theirs.timesteps)
    for t in mine.timesteps.tolist():
        x, output = torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)
        results = [s.step(output, t, x, generator=torch.Generator().manual_seed(t)) for s in (mine, theirs)]
        for got, expected in zip(*results, strict=True):
            assert torch.allclose(got, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("ddpm", {}), ("ddpm", {"variance": "beta"}), ("ddpm", {"variance": "none"}), ("ddim", {"eta": 0.7})],
)
def test_steps_are_those_of_the_samplers(sampler: Any, options: dict[str, Any]) -> None:
    scheduler = SegmentationScheduler(100, "segdiff", sampler=sampler, **options)
    scheduler.set_timesteps(6)
    x_T = torch.randn(2, 1, 4, 4, 4)
    noises = [torch.randn(x_T.shape, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    x = x_T
    for index, t in enumerate(scheduler.timesteps):
        x, x_0 = scheduler.step(torch.tanh(x + t / 100), t, x, generator=torch.Generator().manual_seed(index))
    schedule = scheduler.noise_schedule
    expected = get_sampler(sampler)(
        lambda x_t, t, _: torch.tanh(x_t + t / 100),
        x_T,
        schedule,
        schedule.timesteps(6),
        lambda i: noises[i],
        **options,
    )
    assert torch.equal(x, x_0)
    assert torch.allclose(x, expected, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 1, 4, 4, 4)], ids=["2-D", "3-D"])
def test_monais_own_inferer_samples_and_trains_with_it(sampler: Any, shape: tuple[int, ...]) -> None:
    class Oracle(nn.Module):
        def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
            return torch.full_like(x, ORACLE)

    scheduler = SegmentationScheduler(sampler=sampler)
    scheduler.set_timesteps(5)
    inferer = DiffusionInferer(scheduler)
    oracle: Any = Oracle()
    sampled = inferer.sample(torch.randn(shape), oracle, verbose=False)
    assert isinstance(sampled, Tensor)
    assert torch.equal(sampled, torch.full(shape, ORACLE))
    predicted = inferer(torch.ones(shape), oracle, torch.randn(shape), torch.tensor([3, 900]))
    assert predicted.shape == shape


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_prediction_types_recover_x_0(prediction_type: Any) -> None:
    scheduler = SegmentationScheduler(sampler="ddim", prediction_type=prediction_type)
    x_0, noise = torch.randn(2, 2, 1, 5, 5, dtype=torch.float64)
    t = torch.tensor([400, 400])
    x_t = scheduler.add_noise(x_0, noise, t)
    target = noise if prediction_type == "epsilon" else scheduler.get_velocity(x_0, noise, t)
    assert torch.allclose(scheduler.step(target, 400, x_t)[1], x_0)


def test_clip_sample_bounds_x_0_before_the_step() -> None:
    x, output = 3 * torch.randn(2, 1, 1, 50)
    plain, clipping = SegmentationScheduler(sampler="ddim"), SegmentationScheduler(sampler="ddim", clip_sample=True)
    expected = plain.step(output.clamp(-1, 1), 500, x)
    for got, want in zip(clipping.step(output, 500, x), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_comes_back_as_it_went_in_and_leaves_no_trace(dtype: torch.dtype) -> None:
    scheduler = SegmentationScheduler()
    before = copy.deepcopy(scheduler)
    x = torch.ones(1, 1, 3, dtype=dtype)
    t = torch.tensor([700])
    results = [scheduler.add_noise(x, x, t), scheduler.get_velocity(x, x, t), *scheduler.step(x, 1000, x)]
    assert {r.dtype for r in results} == {dtype}
    assert scheduler.noise_schedule == before.noise_schedule
    assert torch.equal(scheduler.alphas_cumprod, before.alphas_cumprod)


def test_is_a_monai_scheduler_with_its_attributes() -> None:
    scheduler = SegmentationScheduler(schedule="cdal")
    assert isinstance(scheduler, Scheduler)
    assert scheduler.num_train_timesteps == 4
    assert scheduler.timesteps.tolist() == [3, 2, 1, 0]
    assert torch.allclose(scheduler.betas, torch.tensor([0.47632, 0.849023, 0.956473, 0.987451]), atol=1e-6)
    assert torch.allclose(torch.cumprod(scheduler.alphas, 0), scheduler.alphas_cumprod, atol=1e-6)
    scheduler.set_timesteps(2, device="cpu")
    assert scheduler.num_inference_steps == 2
    assert scheduler.timesteps.dtype == torch.long


def test_timesteps_set_by_hand_are_followed() -> None:
    scheduler = SegmentationScheduler(sampler="ddim")
    scheduler.timesteps = torch.tensor([900, 33])
    x, x_0 = torch.randn(1, 1, 4, dtype=torch.float64), torch.full((1, 1, 4), ORACLE, dtype=torch.float64)
    abar, abar_prev = (scheduler.noise_schedule.alpha_cumprod_at(t) for t in (900, 33))
    expected = abar_prev**0.5 * x_0 + (1 - abar_prev) ** 0.5 * (x - abar**0.5 * x_0) / (1 - abar) ** 0.5
    assert torch.allclose(scheduler.step(x_0, 900, x)[0], expected)
    assert torch.equal(scheduler.step(x_0, 33, x)[0], x_0)


def test_mistakes_are_told_in_one_line() -> None:
    with pytest.raises(SpecError, match=r"sampler is 'dpm_solver\+\+': choose one of ddpm, ddim"):
        SegmentationScheduler(sampler="dpm_solver++")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="prediction_type is 'x0': choose one of sample, epsilon, v_prediction"):
        SegmentationScheduler(prediction_type="x0")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no noise schedule 'linear_beta'"):
        SegmentationScheduler(schedule="linear_beta")
    scheduler = SegmentationScheduler()
    with pytest.raises(SpecError, match="cannot visit 2000 timesteps"):
        scheduler.set_timesteps(2000)
    with pytest.raises(SpecError, match=r"timestep 1001 is not visited: .*here 1000, 999, 998, …, 0"):
        scheduler.step(torch.zeros(1, 1, 2), 1001, torch.zeros(1, 1, 2))
