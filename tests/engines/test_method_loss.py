"""Each method gets the loss that its network's output can be compared by."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medsegdiff.engines.method_loss import method_loss
from medsegdiff.errors import SpecError
from medsegdiff.losses.segmentation import RegressionLoss, SegmentationLoss
from medsegdiff.methods import RunSpec


def a_run(method: str, **changes: Any) -> RunSpec:
    return RunSpec("phantoms", method, "small", 2, 1, ["background", "head", "tail"], [8, 8], **changes)


def test_networks_that_classify_are_compared_with_the_label():
    output, label = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 1, 4, 4))
    wanted = SegmentationLoss(pixel_term="focal", pixel_weight=2.0, dice_weight=0.5)(output, label)
    loss = method_loss(a_run("recycling"), pixel_term="focal", pixel_weight=2.0, dice_weight=0.5)
    torch.testing.assert_close(loss(output, label), wanted)


def test_networks_that_predict_noise_are_compared_with_it():
    output, noise = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    loss = method_loss(a_run("segdiff", prediction_options={"name": "epsilon"}), reduction="sum")
    torch.testing.assert_close(loss(output, noise), 16 * RegressionLoss()(output, noise))


@pytest.mark.parametrize("options", [{"pixel_term": "hinge"}, {"reduction": "max"}])
def test_a_setting_that_does_not_exist_is_refused_for_every_method(options):
    for method in ("recycling", "segdiff"):
        with pytest.raises(SpecError, match="does not exist"):
            method_loss(a_run(method), **options)


def test_what_the_run_predicts_decides():
    assert isinstance(method_loss(a_run("diffusion", prediction_options={"name": "v"})), RegressionLoss)
    assert isinstance(method_loss(a_run("segdiff", prediction_options={"name": "logits"})), SegmentationLoss)
