"""The masks of an RT Structure Set: the voxels within its contours (DICOM PS3.3, C.8.8.5 and C.8.8.6)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.dicom.grid import Grid
from medsegdiff.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

# A contour may lie this fraction of the slice spacing beside its slice.
TOLERANCE = 0.25
# What is no closed contour has no area: points and lines.
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_FEWEST_POINTS = 3
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def describe(dataset: Dataset) -> dict[str, Any]:
    """The entries of an `Annotation` that differ by modality."""
    frames = dataset.get("ReferencedFrameOfReferenceSequence") or ()
    series = (
        str(item.SeriesInstanceUID)
        for frame in frames
        for study in frame.get("RTReferencedStudySequence") or ()
        for item in study.get("RTReferencedSeriesSequence") or ()
    )
    return {
        "series_uids": tuple(dict.fromkeys(series)),
        "frame_of_reference": next((str(f.FrameOfReferenceUID) for f in frames if f.get("FrameOfReferenceUID")), ""),
        "names": tuple(name for name, _ in _contours(dataset)),
    }


def read_masks(dataset: Dataset, path: Path, grid: Grid) -> list[tuple[str, NDArray[np.bool_]]]:
    """The mask of each structure that has an area, by its name; errors see `read_structures`."""
    masks = []
    for name, contours in _contours(dataset):
        mask = np.zeros(grid.shape, np.bool_)
        for contour in contours:
            _add(contour, mask, grid, name)
        if mask.any():
            masks.append((name, mask))
    return masks


def _contours(dataset: Dataset) -> list[tuple[str, list[NDArray[np.float64]]]]:
    """The closed contours (points, 3) of each structure that has one, in mm, LPS; each once."""
    names = {
        int(item.ROINumber): str(item.get("ROIName") or f"structure {item.ROINumber}").strip()
        for item in dataset.get("StructureSetROISequence") or ()
    }
    found = []
    for item in dataset.get("ROIContourSequence") or ():
        number = int(item.ReferencedROINumber)
        closed = {
            tuple(map(float, contour.ContourData)): None
            for contour in item.get("ContourSequence") or ()
            if contour.get("ContourGeometricType") in _CLOSED and contour.get("ContourData")
        }
        contours = [np.array(points).reshape(-1, 3) for points in closed if len(points) >= 3 * _FEWEST_POINTS]
        if contours:
            found.append((names.get(number, f"structure {number}"), contours))
    return found


def _add(contour: NDArray[np.float64], mask: NDArray[np.bool_], grid: Grid, name: str) -> None:
    """Turn over the voxels whose centres a contour holds: within a contour within another there is a hole."""
    from skimage.draw import polygon

    to_index = np.linalg.inv(grid.affine)
    points = (contour * _LPS_TO_RAS) @ to_index[:3, :3].T + to_index[:3, 3]  # (points, 3), in voxels
    heights = points[:, 2]
    slice_index = int(np.rint(heights.mean()))
    if np.abs(heights - slice_index).max() > TOLERANCE:
        msg = (
            f"got a contour of {name!r} between the slices, from {heights.min():.2f} to {heights.max():.2f}; allowed "
            "are contours in the slices of the series; export them for this series"
        )
        raise DataError(msg)
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    if not 0 <= slice_index < grid.shape[2] or (low < -1).any() or (high > grid.shape[:2]).any():
        msg = f"got a contour of {name!r} outside of its series; take the series that it was made on"
        raise DataError(msg)
    inside = polygon(points[:, 0], points[:, 1], grid.shape[:2])
    mask[(*inside, slice_index)] ^= True
