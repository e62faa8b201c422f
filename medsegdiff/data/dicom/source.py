"""The series that a segmentation is made from: its grid, and what DICOM wants repeated of its headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.data.dicom.folder import find_grid
from medsegdiff.data.dicom.frames import Frame
from medsegdiff.data.dicom.grid import Grid
from medsegdiff.data.dicom.headers import READ_ERRORS
from medsegdiff.data.dicom.versions import lenient
from medsegdiff.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# Of type 2: there in every file, though possibly empty.
_OFTEN_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_PATIENT_AND_STUDY = (
    *_OFTEN_EMPTY,
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "EthnicGroup", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("LongitudinalTemporalInformationModified", "PatientSpeciesDescription", "ResponsiblePerson"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
    *("ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription"),
)
_IMAGE = (
    *("Modality", "SeriesNumber", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    *(
        "SpecificCharacterSet",
        "Rows",
        "Columns",
        "LossyImageCompression",
        "LossyImageCompressionRatio",
        "LossyImageCompressionMethod",
    ),
)


@dataclass(frozen=True, eq=False)
class Source:
    """A series of which a segmentation is made.

    Attributes:
        grid: of its one volume.
        headers: of its files, what concerns patient, study and references.
    """

    grid: Grid
    headers: Mapping[Path, Dataset]

    @property
    def first(self) -> Dataset:
        """The header of the first slice; what is said of patient and study is the same in all."""
        return self.headers[self.grid.frames[0].path]

    def slice_headers(self) -> list[Dataset]:
        """A header for each slice, in the order of the grid, as if it were a classic file of its own.

        Those of one multi-frame file share their SOPInstanceUID. Patient and study, whose values in many a header are
        not as they ought to be, are left to be copied afterwards.
        """
        with lenient():
            return [_slice_header(self.headers[frame.path], frame, self.grid) for frame in self.grid.frames]


def read_source(folder: Path) -> Source:
    """Read the headers of the one series in a folder.

    A series without a frame of reference, which some anonymisers remove, gets one of its own: the same each time.

    Raises:
        DataError: see `find_grid`; a path that is no folder, or images without the UIDs by which a segmentation refers
            to them.
    """
    if not folder.is_dir():
        msg = (
            f"{folder}: got an image that is no DICOM series; a DICOM-SEG refers to one; give the folder of a series, "
            "or take --output-format nifti"
        )
        raise DataError(msg)
    grid = find_grid(folder)
    with lenient():
        headers = {path: _header(folder, path) for path in {frame.path: None for frame in grid.frames}}
    files = {header.SOPInstanceUID for header in headers.values()}
    if len(files) != len(headers):
        raise _unusable(folder, f"{len(headers)} files that share {len(files)} SOPInstanceUIDs")
    return Source(grid, headers)


def _header(folder: Path, path: Path) -> Dataset:
    import pydicom
    from pydicom.uid import generate_uid

    tags = [*_NEEDED, *_PATIENT_AND_STUDY, *_IMAGE]
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
        # Sequences and texts are decoded when they are looked at.
        missing = next((keyword for keyword in _NEEDED if not header.get(keyword)), None)
        for keyword in _OFTEN_EMPTY:
            if header.get(keyword) is None:
                setattr(header, keyword, "")
        header.decode()
    except READ_ERRORS as error:
        raise _unusable(folder, f"a header that cannot be decoded in {path.name}") from error
    if missing is not None:
        raise _unusable(folder, f"no {missing} in {path.name}")
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=[header.SeriesInstanceUID, "frame of reference"])
    return header


def _slice_header(header: Dataset, frame: Frame, grid: Grid) -> Dataset:
    import numpy as np
    from pydicom import Dataset
    from pydicom.uid import MRImageStorage
    from pydicom.valuerep import DSfloat

    def decimal(numbers: Any) -> list[DSfloat]:
        return [DSfloat(float(number), auto_format=True) for number in np.ravel(numbers)]

    image = Dataset()
    for keyword in (*_NEEDED, *_IMAGE):
        if keyword in header:
            setattr(image, keyword, header.get(keyword))
    for keyword in _OFTEN_EMPTY:
        setattr(image, keyword, None)
    image.SOPClassUID = MRImageStorage  # any class of one slice a file
    image.ImagePositionPatient = decimal(frame.position)
    image.ImageOrientationPatient = decimal(grid.frames[0].orientation)
    column, row, between = grid.spacing
    image.PixelSpacing = decimal((row, column))
    image.SliceThickness, image.SpacingBetweenSlices = decimal((frame.thickness or between, between))
    return image


def _unusable(folder: Path, got: str) -> DataError:
    msg = (
        f"{folder}: got {got}; a DICOM-SEG refers to the study, series and instances of its images; export the series "
        "again, or take --output-format nifti"
    )
    return DataError(msg)
