"""Inferers that sample, and what takes the variance over draws through MONAI's evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys

from medsegdiff.data.metadata import like_inputs
from medsegdiff.inferers.base import Sampling
from medsegdiff.networks.segmenter import Segmentation, StepCallback
from medsegdiff.networks.wrapping import unwrapped

VARIANCE = "variance"


class SamplingInferer(Sampling, Inferer):
    """Samples each image whole."""

    def sample(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        *,
        cases: Sequence[str] | None = None,
        callback: StepCallback | None = None,
    ) -> Segmentation:
        """Segment a batch; see `DiffusionSegmenter.sample` for the options."""
        segmentation: Segmentation = unwrapped(network).sample(inputs, cases=cases, callback=callback)
        return segmentation


def sampling_iteration(engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """An `iteration_update` for MONAI's `SupervisedEvaluator` that keeps the variance over draws.

    The output holds "image", "label" where there is one, "pred" (class probabilities (B, K, *S)) and, where more than
    one draw was taken, "variance" (B, 1, *S), see `Segmentation`.
    """
    image, label, *_ = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    engine.network.eval()
    segmentation = engine.inferer.sample(image, engine.network)
    output: dict[str, Any] = {Keys.IMAGE: image, Keys.PRED: like_inputs(segmentation.probabilities, image)}
    if label is not None:
        output[Keys.LABEL] = label
    if segmentation.draws > 1:
        output[VARIANCE] = like_inputs(segmentation.variance, image)
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return engine.state.output  # taken apart and postprocessed by that event, as MONAI's handlers expect it
