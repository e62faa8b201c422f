"""The header of one DICOM file: which series it belongs to, and the slices in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.data.dicom.frames import Frame, frames_of
from medsegdiff.data.dicom.versions import lenient, without_quotes
from medsegdiff.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# What else a study holds, some of it with pixels.
NO_IMAGES = {
    "KO": "a selection of images",
    "PR": "a way to show images",
    "REG": "a registration",
    "RTDOSE": "a dose distribution",
    "RTPLAN": "a treatment plan",
    "RTSTRUCT": "contours",
    "SEG": "a segmentation",
    "SR": "a report",
}
_MAGIC, _MAGIC_OFFSET = b"DICM", 128
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription"),
    *(
        "Modality",
        "ImageType",
        "InstanceNumber",
        "FrameOfReferenceUID",
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "AccessionNumber",
    ),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "ModalityLUTSequence"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    *("PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient"),
    *("TemporalPositionIdentifier", "EchoNumbers", "AcquisitionNumber", "DiffusionBValue", "EchoTime", "TriggerTime"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
# All that damaged files were seen to raise from pydicom; whatever else it raises is worth a traceback.
READ_ERRORS = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError)


@dataclass(frozen=True, eq=False, kw_only=True)
class Header:
    """What a DICOM file says before its pixels.

    Attributes:
        path: the file.
        uid: of the file's content; copies share it.
        series_uid: of the series; empty where an anonymiser has removed it.
        study_uid: of the study.
        frame_of_reference: of the coordinates; empty where the header does not say.
        series_number: of the series in its study; None where the header does not say.
        description: of the series, possibly empty.
        modality: DICOM's word, such as MR or CT.
        image_type: DICOM's words in capitals, such as ORIGINAL, PRIMARY, AXIAL.
        patient_id: possibly empty.
        identities: texts of the header that name the patient or the examination.
        is_secondary_capture: whether it was made from another image, such as a picture of the screen.
        no_image: what it is, if no image; else None.
        frames: the slices, empty if it is no image.
    """

    path: Path
    uid: str
    series_uid: str
    study_uid: str
    frame_of_reference: str
    series_number: int | None
    description: str
    modality: str
    image_type: tuple[str, ...]
    patient_id: str
    identities: tuple[str, ...]
    is_secondary_capture: bool
    no_image: str | None
    frames: tuple[Frame, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file claims to be DICOM, by its suffix or its first bytes."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC_OFFSET)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_header(path: Path) -> Header | None:
    """Read the header of a file; None for a file that is not DICOM, and for the directory of a medium (DICOMDIR).

    Raises:
        DataError: a DICOM file whose header is damaged or incomplete.
    """
    if not is_dicom(path):
        return None
    try:
        with lenient():
            return _read_header(path)
    except DataError:
        raise
    except READ_ERRORS as error:
        raise _damaged(path, without_quotes(str(error)) or type(error).__name__) from error


def _read_header(path: Path) -> Header | None:
    import pydicom

    # Without force, files of the older kind that begin with their data would be refused.
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
    storage = str(dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or "")
    if storage == pydicom.uid.MediaStorageDirectoryStorage:
        return None
    if not dataset.get("SeriesInstanceUID") and not dataset.get("Rows"):
        raise _damaged(path, "it names neither a series nor a number of rows")
    no_image = _why_no_image(path, dataset, storage)
    number = dataset.get("SeriesNumber")
    return Header(
        path=path,
        uid=str(dataset.get("SOPInstanceUID") or ""),
        series_uid=str(dataset.get("SeriesInstanceUID") or ""),
        study_uid=str(dataset.get("StudyInstanceUID") or ""),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID") or ""),
        series_number=None if number is None else int(number),
        description=str(dataset.get("SeriesDescription") or "").strip(),
        modality=str(dataset.get("Modality") or ""),
        image_type=_words(dataset.get("ImageType")),
        patient_id=str(dataset.get("PatientID") or "").strip(),
        identities=_identities(dataset),
        is_secondary_capture=f"{storage}.".startswith(f"{_SECONDARY_CAPTURE}."),
        no_image=no_image,
        frames=() if no_image else frames_of(dataset, path),
    )


def _why_no_image(path: Path, dataset: Dataset, storage: str) -> str | None:
    from pydicom.uid import UID

    modality = str(dataset.get("Modality") or "")
    if modality in NO_IMAGES:
        return NO_IMAGES[modality]
    if dataset.get("Rows") and dataset.get("Columns"):
        return None
    # "Image Storage" is the end of all names of images, and of "Non-Image Storage".
    if re.search(r"(?<!Non-)Image Storage$", UID(storage).name):
        raise _damaged(path, "it names no number of rows and columns")
    return "no image"


def _words(value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value or ()
    return tuple(str(word).upper() for word in words)


def _identities(dataset: Dataset) -> tuple[str, ...]:
    name = re.split(r"[\^=\s,]+", str(dataset.get("PatientName") or ""))
    others = (str(dataset.get(key) or "").strip() for key in ("PatientID", "PatientBirthDate", "AccessionNumber"))
    return tuple(text for text in (*name, *others) if text)


def _damaged(path: Path, reason: str) -> DataError:
    msg = (
        f"{path}: got a DICOM file whose header cannot be used ({reason}); allowed are undamaged files; export it again"
    )
    return DataError(msg)
