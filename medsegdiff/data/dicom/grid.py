"""The regular grid on which the slices of one volume lie, or the line that says why they lie on none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.dicom.frames import Frame
from medsegdiff.errors import DataError

# A slice may lie this fraction of the slice spacing before or behind its place on a regular grid: far above the
# rounding of headers, far below the half slice by which a missing or an uneven one is off.
SLICE_TOLERANCE = 0.1
# A slice may lie this many pixels beside its place: below, no voxel is taken for its neighbour.
PIXEL_TOLERANCE = 0.5
# Slices are alike when their edges differ by this fraction, directions by this angle (rad): at either, the corner of
# 512 pixels moves by half a pixel about the centre.
SIZE_TOLERANCE = 2e-3
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Grid:
    """Slices in the order of space, and where their voxels lie.

    Attributes:
        frames: the slices, sorted along the cross product of row and column direction.
        affine: (4, 4), from the index (column, row, slice) to millimetres in RAS; its axes are at right angles.
        shape: number of columns, rows and slices.
        spacing: distance between columns, rows and slices in mm.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]


def grid_of(frames: Sequence[Frame]) -> Grid:
    """Sort slices by their positions and find their grid (DICOM PS3.3, C.7.6.2.1.1).

    Messages of errors begin with what was got: the caller knows what the slices are called together.

    Args:
        frames: one slice or more.

    Raises:
        DataError: slices that `check_alike` refuses, or that are repeated, tilted against their stack, shifted, missing
            or unevenly spaced.
    """
    check_alike(frames)
    if is_repeated(frames):
        _refuse(_repeats(frames), "keep one image of each place")
    heights = _heights(frames)
    order = np.argsort(heights, kind="stable")
    frames, heights = [frames[i] for i in order], heights[order]
    first = frames[0]
    row, column, normal = _axes(first)
    positions = np.stack([_position(frame) for frame in frames])
    _check_right_angles(frames, heights, (positions - positions[0]) @ np.stack([row, column]).T)
    spacing = (*_spacing(first), _slice_spacing(frames, heights))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column, normal], axis=1) * spacing
    affine[:3, 3] = positions[0]
    affine[:3] *= _LPS_TO_RAS[:, None]
    return Grid(tuple(frames), affine, (*first.shape, len(frames)), spacing)


def check_alike(frames: Sequence[Frame]) -> None:
    """Make sure that slices could belong to one volume, wherever in it.

    Raises:
        DataError: a slice in colour or without a place, or slices of several orientations, sizes or pixel spacings.
    """
    first = frames[0]
    for frame in frames:
        if not frame.is_grey:
            _refuse(f"colours in {frame.name}", "export grey images")
        if "MOSAIC" in frame.marks.get("kind", "").split("\\"):
            _refuse(f"all slices as tiles of one picture (mosaic) in {frame.name}", "use dcm2niix")
        missing = _missing_place(frame)
        if missing:
            _refuse(f"no {missing} in {frame.name}", "export it with its geometry")
        _check_orientation(first, frame)
        if frame.shape != first.shape:
            got = f"slices of {_by(first.shape)} pixels ({first.name}) and of {_by(frame.shape)} ({frame.name})"
            _refuse(got, "separate the images")
        if any(abs(a / b - 1) > SIZE_TOLERANCE for a, b in zip(_spacing(frame), _spacing(first), strict=True)):
            got = (
                f"a pixel spacing of {_by(_spacing(first))} mm ({first.name}) and of {_by(_spacing(frame))} mm "
                f"({frame.name})"
            )
            _refuse(got, "separate the images")


def is_repeated(frames: Sequence[Frame]) -> bool:
    """Whether several of these slices, all alike, lie at one place."""
    return len(_places(_heights(frames))) < len(frames)


def _heights(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Distance of each slice along the normal of the first, in mm."""
    normal = _axes(frames[0])[2]
    return np.array([_position(frame) @ normal for frame in frames])


def _places(heights: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """The indices of the slices at each place, from the lowest place to the highest."""
    order = np.argsort(heights, kind="stable")
    # With repetitions this is less than a tenth of the distance between places, and still more than rounding.
    tolerance = SLICE_TOLERANCE * np.ptp(heights) / len(heights)
    return np.split(order, np.flatnonzero(np.diff(heights[order]) > tolerance) + 1)


def _repeats(frames: Sequence[Frame]) -> str:
    places = _places(_heights(frames))
    first, second, *_ = next(place for place in places if len(place) > 1)
    return (
        f"{len(frames)} slices at {len(places)} place{'s' if len(places) > 1 else ''}: {frames[first].name} and "
        f"{frames[second].name} lie at the same, and no time, echo or acquisition number splits them into volumes"
    )


def _check_orientation(first: Frame, frame: Frame) -> None:
    row, column = _orientation(frame)
    lengths = np.linalg.norm([row, column], axis=1)
    if abs(row @ column) > SIZE_TOLERANCE or (abs(lengths - 1) > SIZE_TOLERANCE).any():
        _refuse(f"rows and columns that are not at right angles in {frame.name}", "export it again")
    if (np.linalg.norm(_orientation(frame) - _orientation(first), axis=1) > SIZE_TOLERANCE).any():
        cosine = (np.sum(np.multiply(_axes(frame), _axes(first))) - 1) / 2
        turned = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        got = f"slices of several orientations: {frame.name} is turned by {turned:.1f}° against {first.name}"
        _refuse(got, "separate them")


def _check_right_angles(frames: Sequence[Frame], heights: NDArray[np.float64], beside: NDArray[np.float64]) -> None:
    """Refuse slices that do not lie straight above each other.

    Args:
        frames: in the order of their heights.
        heights: (slices,), in mm.
        beside: (slices, 2), distance from the first slice along rows and columns, in mm.
    """
    tolerance = PIXEL_TOLERANCE * min(_spacing(frames[0]))
    if np.linalg.norm(beside, axis=1).max() <= tolerance:
        return
    height = heights - heights[0]
    lean = height @ beside / (height @ height)
    rest = np.linalg.norm(beside - height[:, None] * lean, axis=1)
    if rest.max() > tolerance:
        worst = int(rest.argmax())
        got = f"a slice that lies {rest[worst]:.2f} mm beside the others' line ({frames[worst].name})"
        _refuse(got, "export it again")
    angle, length = np.degrees(np.arctan(np.linalg.norm(lean))), float(np.linalg.norm(beside[-1]))
    got = (
        f"a gantry tilt of {angle:.1f}°: from {frames[0].name} to {frames[-1].name} the slices shift by {length:.2f} mm"
    )
    _refuse(got, "resample it to right angles first, as dcm2niix does")


def _slice_spacing(frames: Sequence[Frame], heights: NDArray[np.float64]) -> float:
    """The distance between neighbouring slices in mm; of a single one what its header says, else 1."""
    if len(frames) == 1:
        return frames[0].thickness or 1.0
    spacing = float(np.ptp(heights)) / (len(frames) - 1)
    regular = heights[0] + spacing * np.arange(len(frames))
    if np.abs(heights - regular).max() <= SLICE_TOLERANCE * spacing:
        return spacing
    raise DataError(_why_uneven(frames, np.diff(heights)))


def _why_uneven(frames: Sequence[Frame], gaps: NDArray[np.float64]) -> str:
    smallest = gaps <= (1 + 2 * SLICE_TOLERANCE) * gaps.min()
    step = float(gaps[smallest].mean())
    multiples = np.rint(gaps / step)
    are_multiples = bool((np.abs(gaps - multiples * step) <= SLICE_TOLERANCE * step * multiples).all())
    if are_multiples and multiples.max() > 1 and 2 * smallest.sum() >= len(gaps):
        first, count = int(np.argmax(multiples > 1)), int((multiples - 1).sum())
        got = (
            f"{count} missing slice{'s' if count > 1 else ''}: {gaps[first]:.2f} mm between {frames[first].name} and "
            f"{frames[first + 1].name}, where the others are {step:.2f} mm apart"
        )
        return _refusal(got, "export the series completely")
    widest = int(gaps.argmax())
    got = (
        f"uneven slice spacing, from {gaps.min():.2f} mm to {gaps[widest]:.2f} mm between {frames[widest].name} and "
        f"{frames[widest + 1].name}"
    )
    return _refusal(got, "resample it, or export the series completely")


def _missing_place(frame: Frame) -> str:
    if frame.position is None:
        return "position"
    if frame.orientation is None:
        return "orientation"
    return "" if frame.spacing is not None else "pixel spacing"


def _position(frame: Frame) -> NDArray[np.float64]:
    return np.asarray(frame.position, np.float64)


def _orientation(frame: Frame) -> NDArray[np.float64]:
    return np.asarray(frame.orientation, np.float64)


def _spacing(frame: Frame) -> tuple[float, float]:
    return frame.spacing or (1.0, 1.0)


def _axes(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Directions of rows, columns and slices in LPS, at right angles and of unit length to the last digit."""
    row, column = _orientation(frame)
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return row, column, np.cross(row, column)


def _by(sizes: Sequence[float]) -> str:
    return "×".join(f"{size:g}" for size in sizes)


def _refuse(got: str, advice: str) -> NoReturn:
    raise DataError(_refusal(got, advice))


def _refusal(got: str, advice: str) -> str:
    return f"got {got}; allowed is one regular volume; {advice}"
