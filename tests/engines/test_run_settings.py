"""What of a run's optimisation is written down."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsegdiff.engines.importance import ImportanceTimes
from medsegdiff.engines.learning_rate import warmup_cosine
from medsegdiff.engines.run_settings import optimizer_settings, settings_of
from medsegdiff.losses.segmentation import SegmentationLoss


def test_an_object_is_its_kind_and_its_plain_attributes():
    assert settings_of("loss", SegmentationLoss(pixel_weight=2)) == {
        "loss": "SegmentationLoss",
        "loss#pixel_term": "cross_entropy",
        "loss#pixel_weight": 2,
        "loss#dice_weight": 1.0,
        "loss#gamma": 2.0,
    }
    times = settings_of("t", ImportanceTimes(10, bins=5))
    assert (times["t"], times["t#bins"], times["t#weighting"]) == ("importance", 5, "unbiased")
    assert not any("_" in name.removeprefix("t#")[:1] for name in times)


def test_functions_and_modules_have_a_name():
    assert settings_of("loss", nn.functional.mse_loss) == {"loss": "mse_loss"}
    assert settings_of("loss", nn.MSELoss()) == {"loss": "MSELoss", "loss#reduction": "mean"}


def test_the_rate_is_that_which_the_schedule_scales():
    layer = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, betas=(0.5, 0.9))
    before = optimizer_settings(optimizer)
    schedule = warmup_cosine(optimizer, total_steps=50)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] != 1e-3
    assert optimizer_settings(optimizer) == before
    assert (before["optimizer"], before["learning_rate"]) == ("AdamW", 1e-3)
    assert (before["optimizer#betas"], before["optimizer#weight_decay"]) == ([0.5, 0.9], 0.01)


def test_groups_that_differ_are_listed():
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizer = torch.optim.SGD([{"params": first.parameters(), "lr": 1.0}, {"params": second.parameters()}], lr=0.5)
    settings = optimizer_settings(optimizer, name="judge", rate="judge_rate")
    assert settings["judge_rate"] == [1.0, 0.5]
    assert settings["judge#momentum"] == 0


@pytest.mark.parametrize("flag", ["foreach", "fused"])
def test_how_a_step_is_computed_does_not_matter(flag):
    one, other = (torch.optim.Adam(nn.Linear(1, 1).parameters(), **{flag: value}) for value in (True, False))
    assert optimizer_settings(one) == optimizer_settings(other)
