"""One slice of a DICOM image: where it lies, what its numbers mean, and what tells it from others at its place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

_LARGEST_TABLE_ENTRY = 2**16 - 1
_WITHOUT_FILE_META = "1.2.840.10008.1.2"  # implicit VR, little endian: what files are in that do not say

_PLACE_GROUPS = ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence")
# What may tell slices at one place apart: the attributes of files, and those of frames with the functional group that
# holds them. What comes first names the split, where several do.
_MARKS = {
    "time": "TemporalPositionIdentifier",
    "echo": "EchoNumbers",
    "acquisition": "AcquisitionNumber",
    "b": "DiffusionBValue",
    "echo_time": "EchoTime",
    "kind": "ImageType",
    "trigger_time": "TriggerTime",
}
_FRAME_MARKS = {
    "time": ("FrameContentSequence", "TemporalPositionIndex"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "b": ("MRDiffusionSequence", "DiffusionBValue"),
    "echo_time": ("MREchoSequence", "EffectiveEchoTime"),
    "kind": ("MRImageFrameTypeSequence", "FrameType"),
    "ct_kind": ("CTImageFrameTypeSequence", "FrameType"),
    "trigger_time": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """A slice, which is a file of its own or one frame of a multi-frame file.

    Attributes:
        path: the file.
        index: number of the frame in its file, from 0.
        name: what messages call it, such as "instance 7 (IM_0007)".
        shape: number of columns and of rows.
        is_grey: whether it has one sample a pixel that is no index into a palette.
        spacing: distance between columns and between rows in mm; None where the header does not say.
        orientation: (2, 3), direction of a row and of a column in LPS; None where the header does not say.
        position: (3,), centre of the first voxel in mm, LPS; None where the header does not say.
        thickness: distance to the next slice in mm as the header has it; None where it does not.
        slope: factor from stored numbers to values.
        intercept: added after the factor.
        stored: lowest and highest number that can be stored; None for stored floating-point numbers.
        transfer_syntax: UID of the way in which the pixels are stored.
        stack: which stack of parallel slices of a multi-frame image it belongs to; empty where that is not said.
        marks: what may tell it from another slice at its place, by short names; empty where the header does not say.
    """

    path: Path
    index: int
    name: str
    shape: tuple[int, int]
    is_grey: bool
    spacing: tuple[float, float] | None
    orientation: NDArray[np.float64] | None
    position: NDArray[np.float64] | None
    thickness: float | None
    slope: float
    intercept: float
    stored: tuple[int, int] | None
    transfer_syntax: str
    stack: str
    marks: Mapping[str, str]

    @property
    def has_place(self) -> bool:
        """Whether the header says where in the patient the slice lies."""
        return self.position is not None and self.orientation is not None and self.spacing is not None


def frames_of(dataset: Dataset, path: Path) -> tuple[Frame, ...]:
    """The slices that a header describes; a multi-frame file without functional groups has slices without a place.

    Raises:
        ValueError: numbers of the header that are none, or not as many functional groups as frames.
    """
    number = dataset.get("InstanceNumber")
    name = path.name if number is None else f"instance {number} ({path.name})"
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    count = max(int(dataset.get("NumberOfFrames") or 1), 1)
    if not groups:
        return tuple(_frame(_Plain(dataset, has_place=count == 1), dataset, path, i, name) for i in range(count))
    if len(groups) != count:
        msg = f"it describes {len(groups)} of {count} frames"
        raise ValueError(msg)
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    return tuple(
        _frame(_Grouped(dataset, group, shared[0]), dataset, path, i, f"{name}, frame {i + 1}")
        for i, group in enumerate(groups)
    )


class _Plain:
    """Attributes of a file that is one slice."""

    def __init__(self, dataset: Dataset, *, has_place: bool) -> None:
        self._dataset = dataset
        self._has_place = has_place

    def value(self, group: str, keyword: str) -> Any:
        if group in _PLACE_GROUPS and not self._has_place:
            return None
        return self._dataset.get(keyword)

    def marks(self) -> Iterator[tuple[str, Any]]:
        return ((key, self._dataset.get(keyword)) for key, keyword in _MARKS.items())


class _Grouped:
    """Attributes of one frame: those of its functional groups, else of those that all frames share."""

    def __init__(self, dataset: Dataset, own: Dataset, shared: Dataset | None) -> None:
        self._dataset = dataset
        self._groups = [group for group in (own, shared) if group is not None]

    def value(self, group: str, keyword: str) -> Any:
        for groups in self._groups:
            sequence = groups.get(group)
            if sequence and sequence[0].get(keyword) is not None:
                return sequence[0].get(keyword)
        return None

    def marks(self) -> Iterator[tuple[str, Any]]:
        yield from ((key, self.value(*place)) for key, place in _FRAME_MARKS.items())
        yield "file", self._dataset.get("InstanceNumber")  # one file a time point, echo, …


def _frame(source: _Plain | _Grouped, dataset: Dataset, path: Path, index: int, name: str) -> Frame:
    spacing = _numbers(source.value("PixelMeasuresSequence", "PixelSpacing"), 2)
    orientation = _numbers(source.value("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    between = _numbers(source.value("PixelMeasuresSequence", "SpacingBetweenSlices"), 1)
    thickness = _numbers(source.value("PixelMeasuresSequence", "SliceThickness"), 1)
    has_table = bool(dataset.get("ModalityLUTSequence"))
    slope = _numbers(source.value("PixelValueTransformationSequence", "RescaleSlope"), 1)
    intercept = _numbers(source.value("PixelValueTransformationSequence", "RescaleIntercept"), 1)
    return Frame(
        path=path,
        index=index,
        name=name,
        shape=(int(dataset.Columns), int(dataset.Rows)),
        is_grey=int(dataset.get("SamplesPerPixel") or 1) == 1
        and "PALETTE" not in str(dataset.get("PhotometricInterpretation")),
        # DICOM names the distance between rows first.
        spacing=None if spacing is None or not (spacing > 0).all() else (float(spacing[1]), float(spacing[0])),
        orientation=None if orientation is None else orientation.reshape(2, 3),
        position=_numbers(source.value("PlanePositionSequence", "ImagePositionPatient"), 3),
        thickness=next((float(abs(v[0])) for v in (between, thickness) if v is not None and v[0] != 0), None),
        # A factor of zero, which some writers leave behind, cannot be meant.
        slope=1.0 if slope is None or has_table else float(slope[0]) or 1.0,
        intercept=0.0 if intercept is None or has_table else float(intercept[0]),
        stored=(0, _LARGEST_TABLE_ENTRY) if has_table else _stored(dataset),
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID") or _WITHOUT_FILE_META),
        stack=str(source.value("FrameContentSequence", "StackID") or ""),
        marks={key: _text(value) for key, value in source.marks()},
    )


def _numbers(value: Any, count: int) -> NDArray[np.float64] | None:
    """`count` finite numbers, or None where the header has fewer, more or none."""
    if value is None or value == "":
        return None
    numbers = np.atleast_1d(np.array(value, np.float64))
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _stored(dataset: Dataset) -> tuple[int, int] | None:
    bits = dataset.get("BitsStored") or dataset.get("BitsAllocated")
    if bits is None or dataset.get("PixelRepresentation") is None:
        return None
    signed = int(dataset.PixelRepresentation)
    highest = 2 ** (int(bits) - signed) - 1
    return (-highest - 1 if signed else 0), highest


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        values = list(value)
    except TypeError:
        return f"{value:.12g}" if isinstance(value, float) and math.isfinite(value) else str(value)
    return "\\".join(map(str, values))
