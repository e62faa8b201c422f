"""Volumes by 2-D networks: every slice is an image of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from medsegdiff.data.metadata import like_inputs
from medsegdiff.data.slices import check_axis
from medsegdiff.errors import DataError, SpecError, check_at_least
from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation, StepCallback, check_cases

_OF_THE_SEGMENTER = (
    *("codec", "prediction", "schedule", "denoiser", "amp", "supervised"),
    *("sampler", "sampler_options", "steps", "draws", "draws_per_batch", "seed"),
)


class SlicewiseSegmenter(nn.Module):
    """Segments volumes with a segmenter of 2-D images, slice by slice, as cDAL does the hippocampus.

    Seen from outside it is a segmenter of volumes: inferers, evaluators and ensembles take it as they take a 3-D one,
    and its settings are those of the segmenter inside. Slice k of the case "a" samples under the noise of the case
    "a/k", k counted in the whole volume, so that a slice comes out the same alone, among others and in any window.

    Args:
        segmenter: of 2-D images.
        axis: which spatial axis the slices lie along, counted from the end; the one that it was trained on.
        slices_per_batch: slices that go through the network at once, each with `draws_per_batch` draws; memory grows
            with it.

    Attributes:
        segmenter: the one inside.
        spatial_dims: 3.

    Raises:
        SpecError: a segmenter of volumes, another axis, or no slices a batch.
    """

    spatial_dims = 3

    def __init__(
        self, segmenter: DiffusionSegmenter | EnsembleSegmenter, *, axis: int = -1, slices_per_batch: int = 32
    ) -> None:
        super().__init__()
        check_axis(axis)
        if spatial_dims(segmenter) != 2:
            msg = (
                f"got a segmenter of {spatial_dims(segmenter)} spatial axes to go slice by slice; "
                "give one of 2, or use this one itself"
            )
            raise SpecError(msg)
        check_at_least(1, slices_per_batch=slices_per_batch)
        self.segmenter = segmenter
        self.axis = axis
        self.slices_per_batch = slices_per_batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.segmenter, name) if name in _OF_THE_SEGMENTER else super().__getattr__(name)

    def set_sampling(self, **options: Any) -> None:
        """Change how later calls sample; see `DiffusionSegmenter.set_sampling`."""
        self.segmenter.set_sampling(**options)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Segment volumes (B, image channels, X, Y, Z) into class probabilities (B, K, X, Y, Z), without gradient."""
        return like_inputs(self.sample(image).probabilities, image)

    @torch.no_grad()
    def sample(
        self,
        image: torch.Tensor,
        *,
        cases: Sequence[str] | None = None,
        full_size: Sequence[int] | None = None,
        window: Sequence[slice] | None = None,
        callback: StepCallback | None = None,
    ) -> Segmentation:
        """Segment every slice by sampling.

        Args:
            image: (B, image channels, X, Y, Z), normalised as in training.
            cases: a name for each volume, part of the key of its noise; by default the files' names.
            full_size: where `image` is a window: the size (X, Y, Z) of the volume it is cut from.
            window: where `image` is a window: its slices in that volume, along all three axes.
            callback: called after every step of every group of draws of every batch of slices; what it sees is 2-D.

        Raises:
            DataError: no volumes, a window of another size than the image, or not one case name for each volume.
            SpecError: a window without `cases`.
        """
        slices = self.as_slices(image)  # (B * D, image channels, *S), S the two other axes
        names = check_cases(image, cases, window)
        size = list(full_size or image.shape[2:])
        place = list(window or [slice(0, n) for n in size])
        numbers = range(size.pop(self.axis))[place.pop(self.axis)]  # of the slices, in the whole volume
        if len(numbers) != image.shape[self.axis]:
            msg = f"got a window of {len(numbers)} slices for an image of {image.shape[self.axis]}; give that image's"
            raise DataError(msg)
        keys = self.slice_names(names, numbers)
        parts = [
            self.segmenter.sample(
                slices[first : first + self.slices_per_batch],
                cases=keys[first : first + self.slices_per_batch],
                full_size=size,
                window=place,
                callback=callback,
            )
            for first in range(0, len(keys), self.slices_per_batch)
        ]
        result = Segmentation(
            torch.cat([part.probabilities for part in parts]),
            torch.cat([part.variance for part in parts]),
            parts[0].draws,
            tuple(steps for part in parts for steps in part.steps),
        )
        return self.as_volumes(result, len(image))

    def as_slices(self, image: torch.Tensor) -> torch.Tensor:
        """Volumes (B, image channels, X, Y, Z) as their slices (B * D, image channels, *S), those of a volume together.

        Raises:
            DataError: no volumes.
        """
        if image.ndim != 5:
            msg = f"got an image of shape {tuple(image.shape)}; slices are cut from (batch, channel, X, Y, Z)"
            raise DataError(msg)
        return image.as_subclass(torch.Tensor).movedim(self.axis, 1).flatten(0, 1)

    def slice_names(self, names: Sequence[str], numbers: Sequence[int]) -> list[str]:
        """The names that the noise of slices goes by, for volumes of these names and slices of these numbers."""
        return [f"{name}/{number}" for name in names for number in numbers]

    def as_volumes(self, slices: Segmentation, batch: int) -> Segmentation:
        """What was found for the slices (B * D, K, *S) of `batch` volumes, as (B, K, X, Y, Z)."""
        probabilities, variance = (
            moment.unflatten(0, (batch, -1)).movedim(1, self.axis).contiguous()
            for moment in (slices.probabilities, slices.variance)
        )
        return replace(slices, probabilities=probabilities, variance=variance)


Segmenter = DiffusionSegmenter | EnsembleSegmenter | SlicewiseSegmenter


def for_images_of(network: Segmenter, dims: int, *, slices_per_batch: int = 32) -> Segmenter:
    """The network for images of so many spatial axes: itself, or for volumes a 2-D one slice by slice along the last.

    Args:
        network: a segmenter.
        dims: spatial axes of the images, 2 or 3.
        slices_per_batch: see `SlicewiseSegmenter`.

    Raises:
        SpecError: a 3-D network for 2-D images.
    """
    if spatial_dims(network) == dims:
        return network
    if isinstance(network, SlicewiseSegmenter) or spatial_dims(network) != 2 or dims != 3:
        msg = (
            f"got a network of {spatial_dims(network)} spatial axes for images of {dims}; allowed is one of as many, "
            "or a 2-D one for volumes: give other weights"
        )
        raise SpecError(msg)
    return SlicewiseSegmenter(network, slices_per_batch=slices_per_batch)


def spatial_dims(network: Segmenter) -> int:
    """How many spatial axes the images of a segmenter have."""
    if isinstance(network, SlicewiseSegmenter):
        return network.spatial_dims
    if isinstance(network, EnsembleSegmenter):
        return spatial_dims(network.segmenters[0])
    return int(network.denoiser.spatial_dims)
