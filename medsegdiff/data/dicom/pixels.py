"""The voxels of a volume: decoded, rescaled slice by slice, in the order of its grid."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.dicom.frames import Frame
from medsegdiff.data.dicom.grid import Grid
from medsegdiff.data.dicom.headers import READ_ERRORS
from medsegdiff.data.dicom.versions import apply_modality_table, has_decoder, lenient, save_dicom, without_quotes
from medsegdiff.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

# In the order of preference: what every reader of NIfTI takes comes first.
_WHOLE_NUMBERS = (np.int16, np.uint16, np.int32, np.uint32)
_ALLOWED = "uncompressed or in JPEG, JPEG-LS, JPEG 2000 or RLE"
# JPEG (baseline, extended, lossless) and JPEG-LS through GDCM, which SimpleITK brings along. JPEG 2000 is left to
# Pillow: there GDCM ends the process at some of what it does not like.
_GDCM_DECODES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))
_DESCRIPTION_OF_PIXELS = (
    *("SamplesPerPixel", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData"),
)


def read_voxels(grid: Grid) -> NDArray[Any]:
    """Read the values of all voxels: stored number · slope + intercept, each slice with its own.

    Unlike ITK's reader of series, which keeps the type of the first slice for all, this cuts no fraction off where the
    slopes differ.

    Returns:
        (columns, rows, slices); whole numbers of 16 bits, or 32 where those do not suffice, if all slopes and
        intercepts are whole, else float32.

    Raises:
        DataError: a slice that cannot be decoded, or has another size than its header says.
    """
    voxels = np.empty(grid.shape, _type_for(grid.frames))
    loaded: tuple[Path | None, NDArray[Any]] = (None, np.empty(0))
    for index, frame in enumerate(grid.frames):
        if frame.path != loaded[0]:
            loaded = (frame.path, _decoded(frame))
        stored = loaded[1]
        if frame.index >= len(stored) or stored.shape[2:0:-1] != frame.shape:
            msg = f"got other pixels than the header says in {frame.name}; allowed are undamaged files; export it again"
            raise DataError(msg)
        voxels[..., index] = _values(stored[frame.index], frame, voxels.dtype).T
    return _narrowed(voxels)


def check_decodable(frames: Sequence[Frame]) -> None:
    """Make sure, from the headers alone, that the pixels are stored in a way that can be read here.

    Raises:
        DataError: one of them is not, such as a video or high-throughput JPEG 2000 without a decoder installed.
    """
    from pydicom.uid import UID

    for syntax in {frame.transfer_syntax: None for frame in frames}:
        if syntax not in _GDCM_DECODES and not has_decoder(syntax):
            name = next(frame.name for frame in frames if frame.transfer_syntax == syntax)
            msg = (
                f"got pixels stored as {UID(syntax).name} in {name}, for which there is no decoder; allowed "
                f"are {_ALLOWED}; export it uncompressed"
            )
            raise DataError(msg)


def _values(stored: NDArray[Any], frame: Frame, dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return stored * np.float64(frame.slope) + frame.intercept
    return stored.astype(np.int64) * int(frame.slope) + int(frame.intercept)


def _type_for(frames: tuple[Frame, ...]) -> np.dtype[Any]:
    """The smallest type that holds whatever these slices may store."""
    ends: list[int] = []
    for frame in frames:
        if frame.stored is None or frame.slope % 1 or frame.intercept % 1:
            return np.dtype(np.float32)
        ends.extend(end * int(frame.slope) + int(frame.intercept) for end in frame.stored)
    return _fitting(min(ends), max(ends))


def _narrowed(voxels: NDArray[Any]) -> NDArray[Any]:
    """In fewer bits if the values allow it: CT is often stored in more than it uses."""
    if voxels.dtype.kind == "f":
        return voxels
    return voxels.astype(_fitting(int(voxels.min()), int(voxels.max())), copy=False)


def _fitting(lowest: int, highest: int) -> np.dtype[Any]:
    for dtype in _WHOLE_NUMBERS:
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.float32)


def _decoded(frame: Frame) -> NDArray[Any]:
    """The stored numbers of a file, (frames, rows, columns)."""
    import pydicom
    from pydicom.uid import UID

    try:
        with lenient():
            dataset = pydicom.dcmread(frame.path, force=True)
            dataset.file_meta.TransferSyntaxUID = UID(frame.transfer_syntax)  # files without one too
            stored = _stored_numbers(dataset)
            if dataset.get("ModalityLUTSequence"):
                stored = apply_modality_table(stored, dataset)
    except (*READ_ERRORS, RuntimeError) as error:
        reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
        msg = (
            f"got pixels that cannot be decoded in {frame.name} ({without_quotes(reason)}); allowed are "
            f"undamaged files, {_ALLOWED}; export it again"
        )
        raise DataError(msg) from error
    return stored.reshape(-1, *stored.shape[-2:])


def _stored_numbers(dataset: Dataset) -> NDArray[Any]:
    try:
        return dataset.pixel_array
    except (*READ_ERRORS, RuntimeError):
        if dataset.file_meta.TransferSyntaxUID not in _GDCM_DECODES or "PixelData" not in dataset:
            raise
        return _decoded_by_gdcm(dataset)


def _decoded_by_gdcm(dataset: Dataset) -> NDArray[Any]:
    """Decode through SimpleITK a copy of the file without slope and intercept, which it would apply."""
    import SimpleITK as sitk
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    bare = Dataset()
    for keyword in _DESCRIPTION_OF_PIXELS:
        if keyword in dataset:
            bare.add(dataset[keyword])
    bare.PhotometricInterpretation = "MONOCHROME2"  # of the other, white for low, it would turn the values over
    bare.SOPClassUID, bare.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    warnings_shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bare.dcm"
            save_dicom(bare, path)
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:  # several lines, which name the copy
        msg = f"not as {bare.file_meta.TransferSyntaxUID.name}"
        raise ValueError(msg) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warnings_shown)
