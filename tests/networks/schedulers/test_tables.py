"""The builders of schedules against the numbers that the papers print."""

from __future__ import annotations

import json

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import NoiseSchedule
from medsegdiff.networks.schedulers.tables import (
    SCHEDULES,
    build_schedule,
    cdal_schedule,
    cosine_schedule,
    custom_schedule,
    linear_schedule,
    segdiff_schedule,
)


def test_linear_has_the_recycling_papers_signal() -> None:
    schedule = linear_schedule()
    signal = [schedule.alpha_cumprod_at(t) ** 0.5 for t in reversed(schedule.timesteps(5))]
    assert signal == pytest.approx([0.99995, 0.72232, 0.27927, 0.05761, 0.00632], abs=5e-6)
    assert schedule.betas[[0, -1]].tolist() == pytest.approx([1e-4, 2e-2])


def test_segdiff_rescaled_ends_in_noise_and_printed_does_not() -> None:
    rescaled, printed = segdiff_schedule(), segdiff_schedule(rescale=False)
    assert rescaled.alpha_cumprod_at(99) == pytest.approx(2.04e-5, abs=5e-8)
    assert rescaled.betas[[0, -1]].tolist() == pytest.approx([1e-3, 0.2])
    assert printed.alpha_cumprod_at(99) == pytest.approx(0.364, abs=5e-4)


@pytest.mark.parametrize(
    ("steps", "epsilon", "betas"),
    [
        (4, 0.0, [0.476320, 0.849023, 0.956473, 0.987451]),
        (4, 1e-3, [0.478255, 0.849206, 0.956418, 0.987404]),
        (2, 0.0, [0.920936, 0.999454]),
        (2, 1e-3, [0.921324, 0.999451]),
    ],
)
def test_cdal_has_the_betas_of_paper_and_release(steps: int, epsilon: float, betas: list[float]) -> None:
    assert cdal_schedule(steps, epsilon=epsilon).betas.tolist() == pytest.approx(betas, abs=1e-6)


def test_cosine_follows_its_formula_until_the_clip() -> None:
    schedule = cosine_schedule(100)
    t = torch.arange(101, dtype=torch.float64) / 100
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2).square()
    assert torch.allclose(schedule.alphas_cumprod[:-1], f[1:-1] / f[0], rtol=1e-10)
    assert schedule.betas[-1].item() == pytest.approx(0.999)
    assert cosine_schedule(100, max_beta=0.5).betas.max().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    "schedule",
    [
        linear_schedule(37, beta_end=0.1),
        cosine_schedule(20, s=0.01),
        segdiff_schedule(50, rescale=False),
        cdal_schedule(2, epsilon=1e-3),
        custom_schedule([0.9, 0.3, 0.1]),
        NoiseSchedule(torch.tensor([0.7, 0.1])),
    ],
    ids=lambda schedule: schedule.name,
)
def test_settings_rebuild_an_equal_schedule_through_json(schedule: NoiseSchedule) -> None:
    settings = json.loads(json.dumps(schedule.settings))
    assert build_schedule(schedule.name, **settings) == schedule


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "custom"])
def test_every_name_builds_with_its_defaults(name: str) -> None:
    schedule = build_schedule(name)
    assert schedule.name == name
    assert schedule == SCHEDULES[name]()


def test_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(SpecError, match="no noise schedule 'sigmoid': choose one of linear, cosine, segdiff, cdal"):
        build_schedule("sigmoid")


def test_unknown_or_missing_setting_lists_those_there_are() -> None:
    with pytest.raises(SpecError, match="'cosine' does not know beta_end: its settings are num_train_timesteps, s"):
        build_schedule("cosine", beta_end=0.1)
    with pytest.raises(SpecError, match="'custom' lacks alphas_cumprod"):
        build_schedule("custom")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("linear", {"num_train_timesteps": 0}, "num_train_timesteps is 0: give a whole number"),
        ("linear", {"num_train_timesteps": 10.0}, "num_train_timesteps is 10.0: give a whole number"),
        ("linear", {"beta_end": "big"}, "beta_end is 'big': give a finite number"),
        ("linear", {"beta_end": 1.5}, "must fall strictly"),
        ("cosine", {"s": float("nan")}, "s is nan: give a finite number"),
        ("segdiff", {"num_train_timesteps": 20}, "ends with beta 1, .*more than 20 timesteps"),
        ("cdal", {"epsilon": 1.0}, "must fall strictly"),
    ],
)
def test_bad_settings_say_what_is_wrong(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_schedule(name, **settings)
