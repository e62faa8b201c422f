"""Batches of slices for training a 2-D network on volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from medsegdiff.errors import DataError, SpecError


def slices_collate(batch: Sequence[Any], axis: int = -1) -> dict[str, Any]:
    """A `collate_fn` that takes volumes apart into all their slices, as 2-D networks are trained on them (cDAL).

    Slice k of the sample "a#0" is called "a#0/k", so that its noise, too, depends on what it is alone. All first slices
    come first, then all second ones, the first crops of all volumes before their second ones: dealt out to several
    processes by volumes, slices then have the order in which one process would see them.

    Args:
        batch: samples of a `KeyedCacheDataset`, or lists with the crops of one volume: "image" (channels, X, Y, Z) and
            "label" (1, X, Y, Z), all of one size, and "sample".
        axis: which spatial axis the slices lie along, counted from the end: -1 for Z, -3 for X.

    Returns:
        "image" (N, channels, X, Y) and "label" (N, 1, X, Y) without metadata and "sample" with N names, where N is the
        number of slices of all samples; nothing else of the samples.

    Raises:
        DataError: samples that are no volumes or differ in size.
        SpecError: another axis.
    """
    check_axis(axis)
    crops = [sample if isinstance(sample, list) else [sample] for sample in batch]
    samples: list[Mapping[str, Any]] = [crop for numbered in zip(*crops, strict=True) for crop in numbered]
    stacked = {key: _stack([sample[key] for sample in samples], key) for key in (Keys.IMAGE, Keys.LABEL)}
    slices: dict[str, Any] = {key: volumes.movedim(axis, 0).flatten(0, 1) for key, volumes in stacked.items()}
    depth = len(slices[Keys.IMAGE]) // len(samples)
    return {**slices, "sample": [f"{sample['sample']}/{k}" for k in range(depth) for sample in samples]}


def check_axis(axis: int) -> None:
    """Make sure that `axis` is a spatial axis of a volume, counted from the end.

    Raises:
        SpecError: it is none of -3, -2, -1.
    """
    if axis not in (-3, -2, -1):
        msg = f"axis is {axis}; slices lie along one of the three spatial axes: use -3, -2 or -1"
        raise SpecError(msg)


def _stack(volumes: Sequence[Any], key: str) -> torch.Tensor:
    """Volumes (C, X, Y, Z) as one plain tensor (B, C, X, Y, Z)."""
    tensors = [torch.as_tensor(volume).as_subclass(torch.Tensor) for volume in volumes]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1 or tensors[0].ndim != 4:
        msg = (
            f"got {key}s of shapes {', '.join(map(str, sorted(shapes)))}; slices need volumes (channel, X, Y, Z) "
            "of one size: crop or pad them to it"
        )
        raise DataError(msg)
    return torch.stack(tensors)
