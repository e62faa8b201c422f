"""Tiny DICOM files of known geometry: classic slices, enhanced multi-frame images, and files that are no images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filereader import dcmread
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
)

from medsegdiff.data.dicom.versions import save_dicom

AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1]])
SAGITTAL = np.array([[0.0, 1, 0], [0, 0, -1]])
OBLIQUE = np.linalg.qr(np.array([[0.9, 0.2, -0.4], [-0.1, 0.8, 0.5], [0.3, -0.5, 0.7]]))[0][:, :2].T
SPACING = (0.5, 0.8)  # between columns, between rows
SHAPE = (5, 4)  # columns, rows
SERIES, STUDY = "1.2.826.0.1.3680043.8.498.7", "1.2.826.0.1.3680043.8.498.8"
STORAGE = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}


def noise(slices: int, *, shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Whole numbers (columns, rows, slices) from -400 to 999."""
    return np.random.default_rng(seed).integers(-400, 1000, (*shape, slices)).astype(np.int16)


def places(heights: Any, orientation: np.ndarray = AXIAL, origin: Any = (3.0, -7.0, 11.0)) -> np.ndarray:
    """ImagePositionPatient (slices, 3) at these heights along the normal."""
    return np.asarray(origin) + np.outer(heights, np.cross(*orientation))


def dataset(kind: str, number: int, **attributes: Any) -> Dataset:
    """What every file has: a file meta header, UIDs and a patient."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = kind
    data.StudyInstanceUID, data.SeriesInstanceUID = STUDY, SERIES
    data.SeriesNumber, data.InstanceNumber = 4, number
    data.PatientID, data.PatientName = "MRN-4711", "Doe^Jane"
    data.PatientBirthDate, data.StudyDate = "19500102", "20210304"
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    data.SOPInstanceUID = attributes.get("SOPInstanceUID", f"{data.SeriesInstanceUID}.{number}")
    return data


def put_pixels(data: Dataset, pixels: np.ndarray) -> None:
    """Store (rows, columns) or (frames, rows, columns) of 16-bit whole numbers as they are."""
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def slices(
    positions: np.ndarray,
    *,
    orientation: np.ndarray = AXIAL,
    volume: np.ndarray | None = None,
    spacing: tuple[float, float] = SPACING,
    modality: str = "MR",
    **attributes: Any,
) -> list[Dataset]:
    """One classic file a position, numbered from 1.

    Args:
        positions: (slices, 3), LPS.
        orientation: (2, 3), direction of rows and of columns.
        volume: (columns, rows, slices); noise by default.
        spacing: between columns and between rows.
        modality: MR, CT or PT.
        attributes: by keyword, the same for all slices, or a list or array of one for each.
    """
    volume = noise(len(positions)) if volume is None else volume
    made = []
    for index, position in enumerate(positions):
        own = {key: value[index] if isinstance(value, list) else value for key, value in attributes.items()}
        data = dataset(STORAGE[modality], index + 1, Modality=modality, ImageType=["ORIGINAL", "PRIMARY", "M"])
        data.ImagePositionPatient = [f"{number:.10g}" for number in position]
        data.ImageOrientationPatient = [f"{number:.10g}" for number in np.ravel(orientation)]
        data.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
        put_pixels(data, volume[..., index].T)
        for keyword, value in own.items():
            setattr(data, keyword, value)
        if "SOPInstanceUID" not in own:
            data.SOPInstanceUID = f"{data.SeriesInstanceUID}.{data.InstanceNumber}.{index}"
        made.append(data)
    return made


def enhanced(
    positions: np.ndarray, *, orientation: np.ndarray = AXIAL, volume: np.ndarray | None = None, **marks: Any
) -> Dataset:
    """One multi-frame file; `marks` are lists with a value a frame: stack, time, slope, intercept, echo_time."""
    volume = noise(len(positions)) if volume is None else volume
    data = dataset(EnhancedMRImageStorage, 1, Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"])
    put_pixels(data, np.moveaxis(volume, (0, 1, 2), (2, 1, 0)))
    data.NumberOfFrames = len(positions)
    measures = Dataset()
    measures.PixelSpacing = [SPACING[1], SPACING[0]]
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [
        _frame_group(position, orientation, {key: values[i] for key, values in marks.items()})
        for i, position in enumerate(positions)
    ]
    return data


def _frame_group(position: np.ndarray, orientation: np.ndarray, marks: dict[str, Any]) -> Dataset:
    group, plane, turn, content, values, echo = (Dataset() for _ in range(6))
    plane.ImagePositionPatient = [f"{number:.10g}" for number in position]
    turn.ImageOrientationPatient = [f"{number:.10g}" for number in np.ravel(orientation)]
    group.PlanePositionSequence, group.PlaneOrientationSequence = [plane], [turn]
    content.StackID = str(marks.get("stack", 1))
    content.TemporalPositionIndex = marks.get("time", 1)
    group.FrameContentSequence = [content]
    values.RescaleSlope, values.RescaleIntercept = marks.get("slope", 1), marks.get("intercept", 0)
    group.PixelValueTransformationSequence = [values]
    if "echo_time" in marks:
        echo.EffectiveEchoTime = float(marks["echo_time"])
        group.MREchoSequence = [echo]
    return group


def contours(**attributes: Any) -> Dataset:
    """A file without pixels."""
    return dataset(
        RTStructureSetStorage, 1, **{"Modality": "RTSTRUCT", "SeriesInstanceUID": f"{SERIES}.9", **attributes}
    )


def compress(data: Dataset, compressor: str, scratch: Path) -> None:
    """Compress the 16-bit pixels without loss by SimpleITK: "JPEG" or "JPEG2000"."""
    pixels = data.pixel_array
    writer = sitk.ImageFileWriter()
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    path = scratch / "compressed.dcm"
    writer.SetFileName(str(path))
    writer.Execute(sitk.GetImageFromArray(pixels.reshape(1, *pixels.shape[-2:])))
    packed = dcmread(path)
    data.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    data.PixelData = encapsulate([_only_frame(packed.PixelData)])
    data["PixelData"].VR = "OB"


def _only_frame(encapsulated: bytes) -> bytes:
    try:
        from pydicom.encaps import generate_frames
    except ImportError:  # pydicom 2
        from pydicom.encaps import generate_pixel_data_frame

        return next(generate_pixel_data_frame(encapsulated, 1))
    return next(generate_frames(encapsulated, number_of_frames=1))


def write(folder: Path, datasets: list[Dataset], *, names: list[str] | None = None) -> Path:
    """Write datasets as the files 0, 1, … or as named; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(datasets):
        save_dicom(data, folder / (names[index] if names else f"{index}.dcm"))
    return folder
