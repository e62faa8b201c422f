"""The loss that fits what a method's network predicts."""

from __future__ import annotations

from medsegdiff.losses.segmentation import RegressionLoss, SegmentationLoss
from medsegdiff.methods import RunSpec, prediction_of


def method_loss(
    spec: RunSpec,
    *,
    pixel_term: str = "cross_entropy",
    pixel_weight: float = 20.0,
    dice_weight: float = 1.0,
    reduction: str = "mean",
) -> SegmentationLoss | RegressionLoss:
    """The loss of a run, so that one configuration serves all methods.

    Args:
        spec: of the run.
        pixel_term: of `SegmentationLoss`, for networks that give logits of classes.
        pixel_weight: likewise.
        dice_weight: likewise.
        reduction: of `RegressionLoss`, for networks that predict the noise, v or x_0.

    Raises:
        SpecError: no such method, or a setting that the losses do not have.
    """
    classes = SegmentationLoss(pixel_term=pixel_term, pixel_weight=pixel_weight, dice_weight=dice_weight)
    regression = RegressionLoss(reduction=reduction)
    return classes if prediction_of(spec).classifies else regression
