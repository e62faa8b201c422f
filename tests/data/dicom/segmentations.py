"""Segmentations and structure sets of known content, and a way to read the former that shares nothing with the code."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from tests.data.dicom.synthetic import AXIAL, SERIES, SPACING, contours, dataset

FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.6"


def places_of(data: Dataset) -> dict[int, np.ndarray]:
    """The places (voxels, 3), in mm, LPS, of the voxels of each segment of a binary segmentation, bit by bit."""
    bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
    size = data.Rows * data.Columns
    shared = data.SharedFunctionalGroupsSequence[0]
    turn = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[int, list[np.ndarray]] = {}
    for number, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        mask = bits[number * size : (number + 1) * size].reshape(data.Rows, data.Columns)
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(mask)
        places = origin + columns[:, None] * between_columns * turn[0] + rows[:, None] * between_rows * turn[1]
        found.setdefault(int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber), []).append(places)
    return {segment: np.concatenate(places) for segment, places in found.items()}


def voxels_on_grid(data: Dataset, affine: np.ndarray) -> dict[int, list[list[int]]]:
    """The indices of the same on the grid of an affine in RAS, in their order; they must lie on it."""
    found = {}
    for segment, places in places_of(data).items():
        index = np.linalg.solve(affine[:3, :3], (places * (-1, -1, 1) - affine[:3, 3]).T).T
        np.testing.assert_allclose(index, np.rint(index), atol=0.1)
        found[segment] = sorted(np.rint(index).astype(int).tolist())
    return found


def voxels_of(label: np.ndarray) -> dict[int, list[list[int]]]:
    """The same of a label map."""
    return {int(number): np.argwhere(label == number).tolist() for number in np.unique(label[label > 0])}


def segmentation(
    planes: np.ndarray,
    positions: np.ndarray,
    numbers: list[int],
    *,
    orientation: np.ndarray = AXIAL,
    spacing: tuple[float, float] = SPACING,
    kind: str = "BINARY",
    names: tuple[str, ...] = ("liver", "tumour"),
    series: str | None = SERIES,
    **attributes: Any,
) -> Dataset:
    """A segmentation with these planes (frames, rows, columns), each at a position and of the segment of a number."""
    attributes = {"FrameOfReferenceUID": FRAME_OF_REFERENCE, "SeriesInstanceUID": f"{SERIES}.5", **attributes}
    data = dataset(SegmentationStorage, 1, Modality="SEG", **attributes)
    data.SegmentationType = kind
    if kind == "FRACTIONAL":
        data.MaximumFractionalValue, data.SegmentationFractionalType = 200, "PROBABILITY"
    data.SegmentSequence = [_item(SegmentNumber=n, SegmentLabel=name) for n, name in enumerate(names, start=1)]
    if series is not None:
        data.ReferencedSeriesSequence = [_item(SeriesInstanceUID=series)]
    data.NumberOfFrames, data.Rows, data.Columns = planes.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 1 if kind == "BINARY" else 8
    data.HighBit = data.BitsStored - 1
    stored = planes.astype(np.uint8)
    if kind == "BINARY":
        stored = np.packbits(planes.astype(bool).ravel(), bitorder="little")
    data.PixelData = stored.tobytes() + b"\0" * (stored.size % 2)
    measures = _item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=1)
    turn = _item(ImageOrientationPatient=[f"{number:.10g}" for number in np.ravel(orientation)])
    data.SharedFunctionalGroupsSequence = [_item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[turn])]
    data.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[f"{value:.10g}" for value in position])],
            **(
                {} if kind == "LABELMAP" else {"SegmentIdentificationSequence": [_item(ReferencedSegmentNumber=number)]}
            ),
        )
        for position, number in zip(positions, numbers, strict=True)
    ]
    return data


def structure_set(
    structures: dict[str, list[np.ndarray]],
    *,
    series: str | None = SERIES,
    geometry: str = "CLOSED_PLANAR",
    **attributes: Any,
) -> Dataset:
    """A structure set with contours (points, 3), in mm, LPS, by the names of the structures."""
    data = contours(**attributes)
    data.StructureSetROISequence = [_item(ROINumber=n, ROIName=name) for n, name in enumerate(structures, start=1)]
    data.ROIContourSequence = [
        _item(
            ReferencedROINumber=number,
            ContourSequence=[
                _item(
                    ContourGeometricType=geometry,
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{value:.10g}" for value in np.ravel(points)],
                )
                for points in several
            ],
        )
        for number, several in enumerate(structures.values(), start=1)
    ]
    if series is not None:
        study = _item(RTReferencedSeriesSequence=[_item(SeriesInstanceUID=series)])
        data.ReferencedFrameOfReferenceSequence = [_item(RTReferencedStudySequence=[study])]
    return data


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
