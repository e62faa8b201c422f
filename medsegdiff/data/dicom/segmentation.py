"""A label map as DICOM Segmentation, on the slices of the series that it was made from (DICOM PS3.3, A.51)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import medsegdiff
from medsegdiff.data.dicom.segments import Code, Segment
from medsegdiff.data.dicom.source import Source
from medsegdiff.data.dicom.versions import lenient, save_dicom
from medsegdiff.errors import DataError
from medsegdiff.notice import RESEARCH_ONLY

if TYPE_CHECKING:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

_LONGEST = 64  # characters of a DICOM name (LO)
_SERIES_NUMBER = 1000  # is added to that of the images, so that the segmentation is listed behind them


Share = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]
"""Which part a program had in a segmentation: all of it, some beside a person, or a person drew it in that program."""


@dataclass(frozen=True, kw_only=True)
class Producer:
    """What made a segmentation.

    Attributes:
        name: of the model, or of the program that it was drawn in.
        version: of the same.
        parameters: settings with which it segmented, by name.
        share: which part it had.
    """

    name: str
    version: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    share: Share = "AUTOMATIC"


def write_segmentation(
    label: NDArray[np.unsignedinteger[Any]],
    path: Path,
    *,
    source: Source,
    segments: Sequence[Segment],
    producer: Producer,
) -> None:
    """Write a binary DICOM Segmentation with one segment a class; frames without a voxel of their segment are left out.

    Segment k is class k. Of a label map without foreground all frames are written, as a file without any is none. The
    file belongs to the study and the frame of reference of its source, and to a new series.

    Args:
        label: class of each voxel (columns, rows, slices) on the grid of the source; (columns, rows) of one slice.
        path: the file.
        source: what was segmented.
        segments: of the classes 1, 2, …
        producer: what segmented it.

    Raises:
        DataError: a label map of another shape or with further classes, or headers that DICOM does not allow.
    """
    if label.size != np.prod(source.grid.shape) or label.shape != source.grid.shape[: label.ndim]:
        msg = f"got a label map of {label.shape} for a series of {source.grid.shape} voxels; give one on its grid"
        raise DataError(msg)
    highest = int(label.max(initial=0))
    if highest > len(segments):
        msg = f"got a label map with class {highest} and {len(segments)} segments; give a segment for each class"
        raise DataError(msg)
    frames = np.moveaxis(label.reshape(source.grid.shape), (0, 1, 2), (2, 1, 0))  # (slices, rows, columns)
    try:
        with lenient(), _silent():
            dataset = _segmentation(np.ascontiguousarray(frames), source, segments, producer)
            _refer_to_files(dataset, source)
            _name_segments(dataset)
            save_dicom(dataset, path)
    except (ValueError, TypeError) as error:
        # What the library says, it may quote from the header, such as a name: only its kind is told.
        msg = (
            f"{source.grid.frames[0].path.parent}: got headers that a DICOM-SEG cannot repeat "
            f"({type(error).__name__}); export the series again, or take --output-format nifti"
        )
        raise DataError(msg) from error


def _segmentation(
    frames: NDArray[np.unsignedinteger[Any]], source: Source, segments: Sequence[Segment], producer: Producer
) -> Segmentation:
    from highdicom.seg import Segmentation
    from pydicom.uid import generate_uid

    algorithm = None if producer.share == "MANUAL" else _algorithm(producer)
    dataset = Segmentation(
        source_images=source.slice_headers(),
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=[
            _description(k, segment, producer.share, algorithm) for k, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=generate_uid(),
        series_number=_SERIES_NUMBER + int(source.first.get("SeriesNumber") or 0),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="medsegdiff",
        manufacturer_model_name=producer.name[:_LONGEST],
        software_versions=f"medsegdiff {medsegdiff.__version__}"[:_LONGEST],
        device_serial_number=producer.version[:_LONGEST],
        content_label="SEGMENTATION",
        content_description=RESEARCH_ONLY,
        content_creator_name="medsegdiff^",
        series_description=f"{producer.name}: research use only"[:_LONGEST],
    )
    dataset.copy_patient_and_study_information(source.first)
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8 holds every name
    return dataset


def _algorithm(producer: Producer) -> AlgorithmIdentificationSequence:
    from highdicom import AlgorithmIdentificationSequence
    from pydicom.sr.codedict import codes

    return AlgorithmIdentificationSequence(
        name=producer.name[:_LONGEST],
        family=codes.DCM.ArtificialIntelligence,
        version=producer.version[:_LONGEST],
        source=f"medsegdiff {medsegdiff.__version__}"[:_LONGEST],
        parameters=dict(producer.parameters) or None,
    )


def _description(
    number: int, segment: Segment, share: Share, algorithm: AlgorithmIdentificationSequence | None
) -> SegmentDescription:
    from highdicom.seg import SegmentDescription

    description = SegmentDescription(
        segment_number=number,
        segment_label=segment.label[:_LONGEST],
        segmented_property_category=_coded(segment.category),
        segmented_property_type=_coded(segment.type),
        algorithm_type=share,
        algorithm_identification=algorithm,
        anatomic_regions=None if segment.region is None else [_coded(segment.region)],
    )
    if segment.modifier is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_coded(segment.modifier)]
    description.SegmentDescription = f"{segment.description or segment.label}. {RESEARCH_ONLY}"
    description.RecommendedDisplayCIELabValue = _cielab(segment.rgb)
    return description


def _coded(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _cielab(rgb: tuple[int, int, int]) -> list[int]:
    """A colour in the 16-bit numbers of DICOM: L* from 0 to 100, a* and b* from -128 to 127 (PS3.3, C.10.7.1.1).

    Of the white point D65, from which viewers (OHIF, 3D Slicer) reckon back.
    """
    from skimage.color import rgb2lab

    lightness, a, b = rgb2lab(np.array(rgb, np.float64) / 255)
    scaled = (lightness / 100, (a + 128) / 255, (b + 128) / 255)
    return [round(65535 * min(max(float(part), 0.0), 1.0)) for part in scaled]


def _refer_to_files(dataset: Dataset, source: Source) -> None:
    """Make references to slices references to their files, with the number of the frame where there are several."""
    slices, classes = source.grid.frames, {h.SOPInstanceUID: h.SOPClassUID for h in source.headers.values()}
    positions = [tuple(image.ImagePositionPatient) for image in source.slice_headers()]
    frames = dict(zip(positions, slices, strict=True))
    several = len(source.headers) < len(slices)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        frame = frames[tuple(group.PlanePositionSequence[0].ImagePositionPatient)]
        for derivation in group.get("DerivationImageSequence", []):
            for reference in derivation.SourceImageSequence:
                reference.ReferencedSOPClassUID = classes[reference.ReferencedSOPInstanceUID]
                if several:
                    reference.ReferencedFrameNumber = frame.index + 1
    holders = [(series, "ReferencedInstanceSequence") for series in dataset.ReferencedSeriesSequence]
    for holder, keyword in [*holders, (dataset, "SourceImageSequence")]:
        files = {item.ReferencedSOPInstanceUID: item for item in holder.get(keyword, [])}
        for uid, item in files.items():
            item.ReferencedSOPClassUID = classes[uid]
        setattr(holder, keyword, list(files.values()))


def _name_segments(dataset: Dataset) -> None:
    """Have every frame name its segment: highdicom names that of a file of one for all, where few readers look."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    named = shared.get("SegmentIdentificationSequence")
    if named:
        del shared.SegmentIdentificationSequence
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.SegmentIdentificationSequence = deepcopy(named)


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing to the log, which may quote the header."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
