"""The loss that fits what a method's network predicts."""

from __future__ import annotations

from medsegdiff.losses.segmentation import RegressionLoss, SegmentationLoss
from medsegdiff.methods import get_method
from medsegdiff.networks.prediction import build_prediction


def method_loss(
    method: str,
    *,
    pixel_term: str = "cross_entropy",
    pixel_weight: float = 20.0,
    dice_weight: float = 1.0,
    reduction: str = "mean",
) -> SegmentationLoss | RegressionLoss:
    """The loss of a method, so that one configuration serves all of them.

    Args:
        method: name of the method.
        pixel_term: of `SegmentationLoss`, for networks that give logits of classes.
        pixel_weight: likewise.
        dice_weight: likewise.
        reduction: of `RegressionLoss`, for networks that predict the noise, v or x_0.

    Raises:
        SpecError: no such method, or a setting that the losses do not have.
    """
    classes = SegmentationLoss(pixel_term=pixel_term, pixel_weight=pixel_weight, dice_weight=dice_weight)
    regression = RegressionLoss(reduction=reduction)
    return classes if build_prediction(get_method(method).prediction).classifies else regression
