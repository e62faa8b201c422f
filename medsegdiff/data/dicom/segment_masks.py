"""The masks of a DICOM Segmentation: binary, fractional or a label map (DICOM PS3.3, C.8.20)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.dicom.frames import Frame, frames_of
from medsegdiff.data.dicom.grid import Grid
from medsegdiff.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

# A frame may lie this fraction of a voxel beside the grid: above what a grid forgives its own slices, below the half
# voxel at which one is taken for its neighbour.
TOLERANCE = 0.25
_COVERED = 0.5
_BACKGROUND = 0
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def describe(dataset: Dataset) -> dict[str, Any]:
    """The entries of an `Annotation` that differ by modality."""
    return {
        "series_uids": tuple(str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or ()),
        "frame_of_reference": str(dataset.get("FrameOfReferenceUID") or ""),
        "names": tuple(_names(dataset).values()),
    }


def read_masks(dataset: Dataset, path: Path, grid: Grid) -> list[tuple[str, NDArray[np.bool_]]]:
    """The mask of each segment that has a voxel, by its name; errors see `read_structures`."""
    names = _names(dataset)
    frames = frames_of(dataset, path)
    pixels = dataset.pixel_array
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    if len(pixels) != len(frames):
        msg = f"got {len(pixels)} frames where the header describes {len(frames)}; export it again"
        raise DataError(msg)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    masks: dict[int, NDArray[np.bool_]] = {}
    for frame, own, stored in zip(frames, groups or [None] * len(frames), pixels, strict=True):
        if not frame.has_place:
            msg = f"got no place in the patient in {frame.name}; allowed are segmentations of volumes; leave it out"
            raise DataError(msg)
        for number, pixels_of_segment in _numbers(dataset, own, stored):
            if number not in names:
                msg = f"got segment {number} in {frame.name}, which the header does not describe; export it again"
                raise DataError(msg)
            mask = masks.setdefault(number, np.zeros(grid.shape, np.bool_))
            mask[_voxels(frame, pixels_of_segment, grid)] = True
    return [(names[number], masks[number]) for number in sorted(masks) if masks[number].any()]


def _names(dataset: Dataset) -> dict[int, str]:
    found = {
        int(item.SegmentNumber): str(item.get("SegmentLabel") or f"segment {item.SegmentNumber}").strip()
        for item in dataset.SegmentSequence
    }
    found.pop(_BACKGROUND, None)  # of label maps
    return found


def _numbers(dataset: Dataset, own: Dataset | None, stored: NDArray[Any]) -> list[tuple[int, NDArray[np.bool_]]]:
    """The segments in a frame, and their pixels (rows, columns)."""
    kind = str(dataset.get("SegmentationType") or "BINARY")
    if kind == "LABELMAP":
        return [(int(number), stored == number) for number in np.unique(stored) if number != _BACKGROUND]
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    group = next((g for g in (own, shared[0]) if g is not None and g.get("SegmentIdentificationSequence")), None)
    if group is None:
        msg = "got a frame that names no segment; export it again"
        raise DataError(msg)
    number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    if kind == "FRACTIONAL":
        return [(number, stored >= _COVERED * int(dataset.MaximumFractionalValue))]
    return [(number, stored > 0)]


def _voxels(frame: Frame, pixels: NDArray[np.bool_], grid: Grid) -> tuple[NDArray[np.intp], ...]:
    """The indices of the voxels that these pixels (rows, columns) of a frame are."""
    directions, spacing, position = (
        np.asarray(part, np.float64) for part in (frame.orientation, frame.spacing, frame.position)
    )
    to_index = np.linalg.inv(grid.affine)
    steps = (directions * spacing[:, None] * _LPS_TO_RAS) @ to_index[:3, :3].T  # (2, 3), of a column and of a row
    origin = to_index[:3, :3] @ (position * _LPS_TO_RAS) + to_index[:3, 3]
    size = np.array(frame.shape)
    off = max(np.abs(origin - np.rint(origin)).max(), (np.abs(steps - np.rint(steps)).max(axis=1) * size).max())
    whole = np.rint(steps).astype(np.intp)
    if off > TOLERANCE or not (np.abs(whole).sum(axis=1) == 1).all() or (whole[0] * whole[1]).any():
        msg = (
            f"got another grid than that of its series, {off:.2f} voxels off in {frame.name}; allowed is the grid of "
            "the series; resample it in the program that made it"
        )
        raise DataError(msg)
    rows, columns = np.nonzero(pixels)
    index = np.rint(origin).astype(np.intp) + columns[:, None] * whole[0] + rows[:, None] * whole[1]
    outside = ((index < 0) | (index >= grid.shape)).any(axis=1)
    if outside.any():
        msg = f"got {int(outside.sum())} voxels outside of its series in {frame.name}; take the series it was made on"
        raise DataError(msg)
    return tuple(index.T)
