"""Inferers that sample: a whole image at once, or window by window with shared noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import fall_back_tuple
from monai.utils.enums import CommonKeys as Keys

from medsegdiff.data.metadata import like_inputs
from medsegdiff.data.noise import case_names
from medsegdiff.networks.segmenter import Segmentation, StepCallback

VARIANCE = "variance"


class Sampling(ABC):
    """An inferer that gives more than a mean: what `sampling_iteration` and the predictor need.

    Called as any inferer of MONAI it gives what `SimpleInferer` gives; `sample` gives the variance over draws too.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Segment a batch.

        Args:
            inputs: images (B, image channels, *S).
            network: a `DiffusionSegmenter` or an `EnsembleSegmenter`, also wrapped for several processes.
            *args: none are known.
            **kwargs: of `sample`.

        Returns:
            Class probabilities (B, K, *S), with the metadata of `inputs` where those have any.
        """
        return like_inputs(self.sample(inputs, network, *args, **kwargs).probabilities, inputs)

    @abstractmethod
    def sample(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        *,
        cases: Sequence[str] | None = None,
        callback: StepCallback | None = None,
    ) -> Segmentation:
        """Segment a batch (B, image channels, *S)."""


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
        segmentation: Segmentation = _unwrapped(network).sample(inputs, cases=cases, callback=callback)
        return segmentation


class KeyedSlidingWindowInferer(Sampling, SlidingWindowInferer):
    """MONAI's sliding windows, each sampled to its end, under one noise of the whole image (Fu et al. 2023).

    Every window cuts its noise out of the field that belongs to its case, so that overlapping windows start from the
    same noise, and the result depends on neither their order nor their number a batch. Where one window covers the
    image, the result is that of sampling the image whole, exactly. Smaller images are padded to `roi_size`. Windows
    of a batch are sampled one after the other, since each has a noise of its own.

    Args:
        roi_size: size of a window; 0 or -1 along an axis means the whole of it.
        **options: of `monai.inferers.SlidingWindowInferer`, such as `overlap` and `mode`.
    """

    def __init__(self, roi_size: Sequence[int] | int, **options: Any) -> None:
        super().__init__(roi_size, **{**options, "with_coord": True})

    def sample(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        *,
        cases: Sequence[str] | None = None,
        callback: StepCallback | None = None,
    ) -> Segmentation:
        """Segment a batch by windows.

        Args:
            inputs: images (B, image channels, *S).
            network: a `DiffusionSegmenter` or an `EnsembleSegmenter`.
            cases: a name for each image, part of the key of its noise; by default the files' names.
            callback: called after every step of every group of draws of every window.

        Returns:
            The blended probabilities, and as variance the windows' variances blended with the same weights: what the
            variance of the blended probabilities is at most, and equal to it outside of overlaps.
        """
        segmenter = _unwrapped(network)
        names = case_names(inputs) if cases is None else list(cases)
        image = inputs.as_subclass(torch.Tensor)
        roi_size = fall_back_tuple(self.roi_size, image.shape[2:])
        full_size = [max(size, window) for size, window in zip(image.shape[2:], roi_size, strict=True)]
        draws = 0

        def sample_windows(windows: torch.Tensor, coordinates: Sequence[Sequence[slice]]) -> torch.Tensor:
            nonlocal draws
            results = []
            for window, (item, _, *place) in zip(windows, coordinates, strict=True):
                result = segmenter.sample(
                    window[None], cases=[names[item.start]], full_size=full_size, window=place, callback=callback
                )
                draws = result.draws
                results.append(torch.cat([result.probabilities, result.variance], dim=1))  # (1, 2K, *roi)
            return torch.cat(results)  # (windows, 2K, *roi)

        if tuple(full_size) == tuple(roi_size):
            # Weighing one window and dividing by the weight would change its last digits.
            single = SlidingWindowInferer(roi_size, padding_mode=self.padding_mode, cval=self.cval, with_coord=True)
            moments = single(image, sample_windows)
        else:
            moments = SlidingWindowInferer.__call__(self, image, sample_windows)
        mean, variance = moments.chunk(2, dim=1)  # type: ignore[union-attr]
        return Segmentation(mean, variance, draws)


def sampling_iteration(engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """An `iteration_update` for MONAI's `SupervisedEvaluator` that keeps the variance over draws.

    The output holds "image", "label" where there is one, "pred" (class probabilities (B, K, *S)) and, where more than
    one draw was taken, "variance" (B, 1, *S): the largest variance over draws of any class's probability.
    """
    image, label, *_ = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    engine.network.eval()
    segmentation = engine.inferer.sample(image, engine.network)
    output: dict[str, Any] = {Keys.IMAGE: image, Keys.PRED: like_inputs(segmentation.probabilities, image)}
    if label is not None:
        output[Keys.LABEL] = label
    variance = largest_variance(segmentation)
    if variance is not None:
        output[VARIANCE] = like_inputs(variance, image)
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return engine.state.output  # taken apart and postprocessed by that event, as MONAI's handlers expect it


def largest_variance(segmentation: Segmentation) -> torch.Tensor | None:
    """The largest variance over draws of any class's probability, (B, 1, *S); None for a single draw.

    With two classes this is the variance of the foreground's probability.
    """
    return segmentation.variance.amax(dim=1, keepdim=True) if segmentation.draws > 1 else None


def _unwrapped(network: Callable[..., Any]) -> Any:
    return getattr(network, "module", network)
