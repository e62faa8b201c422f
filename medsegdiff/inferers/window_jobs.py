"""Segmenters of every kind by windows: ensembles member by member, volumes slice by slice, single networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.slicewise import SlicewiseSegmenter
from medsegdiff.inferers.windows import Box
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation, StepCallback


@dataclass(frozen=True, eq=False)
class WindowJob:
    """Images to segment by windows.

    Attributes:
        image: (B, image channels, *S).
        names: of the images, which their noise goes by.
        boxes: the part of each image in which there is something to segment.
        roi_size: of a window, for all axes or for each.
        overlap: of windows, for all axes or for each.
        at_once: windows that may go through a network together.
        callback: sees every step; None where nobody does.
        held_maps: float32 maps (*S) of each image that are in memory meanwhile, beside what the job takes.
    """

    image: torch.Tensor
    names: Sequence[str]
    boxes: Sequence[Box]
    roi_size: Sequence[int] | int
    overlap: Sequence[float] | float
    at_once: int
    callback: StepCallback | None = None
    held_maps: int = 0


SegmentOne = Callable[[DiffusionSegmenter, WindowJob], Segmentation]


def segment_by_windows(network: Any, job: WindowJob, segment: SegmentOne) -> Segmentation:
    """Segment the images of a job with a network of any kind.

    Args:
        network: a segmenter.
        job: what to segment.
        segment: does so with a single network of images with as many axes as it takes.
    """
    if isinstance(network, SlicewiseSegmenter):
        return _segment_slices(network, job, segment)
    if isinstance(network, EnsembleSegmenter):
        return _segment_with_members(network, job, segment)
    return segment(network, job)


def _segment_with_members(ensemble: EnsembleSegmenter, job: WindowJob, segment: SegmentOne) -> Segmentation:
    """Each member by windows; what becomes of their results is the ensemble's own business."""
    # The mean of the members and what they are fused to, a map each for a class, and two kinds of variance.
    held = job.held_maps + 2 * ensemble.segmenters[0].codec.num_classes + 2

    def sample(member: Any, callback: StepCallback | None) -> Segmentation:
        return segment_by_windows(member, replace(job, callback=callback, held_maps=held), segment)

    return ensemble.sample_with(sample, callback=job.callback)


def _segment_slices(slicewise: SlicewiseSegmenter, job: WindowJob, segment: SegmentOne) -> Segmentation:
    """All slices of volumes (B, image channels, X, Y, Z) as one batch of 2-D images."""
    slices = slicewise.as_slices(job.image)  # (B * D, image channels, *S)
    numbers = range(len(slices) // len(job.image))
    axis = slicewise.axis
    in_plane = WindowJob(
        image=slices,
        names=slicewise.slice_names(job.names, numbers),
        boxes=[_box_of_slice(box, axis, number) for box in job.boxes for number in numbers],
        roi_size=_without_axis(job.roi_size, axis),
        overlap=_without_axis(job.overlap, axis),
        at_once=max(job.at_once, slicewise.slices_per_batch),
        callback=job.callback,
        held_maps=job.held_maps,
    )
    return slicewise.as_volumes(segment_by_windows(slicewise.segmenter, in_plane, segment), len(job.image))


def _without_axis(values: Any, axis: int) -> Any:
    """What is given for all axes, or for each of them but one."""
    if isinstance(values, (int, float)):
        return values
    kept = list(values)
    del kept[axis]
    return kept


def _box_of_slice(box: Box, axis: int, number: int) -> Box:
    """The part of a slice that lies in the box of its volume."""
    across = list(box)
    along = across.pop(axis)
    return tuple(across) if along.start <= number < along.stop else (slice(0, 0),) * len(across)
