"""Structures that somebody has marked on a series: DICOM Segmentations and RT Structure Sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.dicom.grid import Grid
from medsegdiff.data.dicom.headers import READ_ERRORS
from medsegdiff.data.dicom.versions import lenient
from medsegdiff.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

SEGMENTATION, CONTOURS = ANNOTATIONS = ("SEG", "RTSTRUCT")


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotation:
    """A file of structures.

    Attributes:
        path: the file.
        modality: "SEG" or "RTSTRUCT".
        study_uid: of the study that it belongs to.
        series_uids: of the series that it refers to; empty where it refers to none.
        frame_of_reference: of its coordinates; empty where it does not say.
        names: of its structures, without those that have no area, in their order.
    """

    path: Path
    modality: str
    study_uid: str
    series_uids: tuple[str, ...]
    frame_of_reference: str
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Structure:
    """A named part of a volume.

    Attributes:
        name: as the file has it.
        mask: (columns, rows, slices), on the grid of the volume.
    """

    name: str
    mask: NDArray[np.bool_]


def read_annotation(path: Path) -> Annotation:
    """What a file of structures says of itself.

    Raises:
        DataError: a file that is damaged, or neither a segmentation nor a structure set.
    """
    from medsegdiff.data.dicom import contour_masks, segment_masks

    dataset = _read(path, with_pixels=False)
    modality = str(dataset.get("Modality") or "")
    if modality not in ANNOTATIONS:
        msg = f"{path.name}: got a file of modality {modality or 'none'}; allowed are {' and '.join(ANNOTATIONS)}"
        raise DataError(msg)
    try:
        with lenient():
            about = (segment_masks if modality == SEGMENTATION else contour_masks).describe(dataset)
    except READ_ERRORS as error:
        raise _damaged(path, error) from error
    return Annotation(path=path, modality=modality, study_uid=str(dataset.get("StudyInstanceUID") or ""), **about)


def read_structures(annotation: Annotation, grid: Grid) -> list[Structure]:
    """The structures of a file on the grid of the volume that they were marked on.

    A segmentation must lie on that grid, whole or in part, in any order and orientation of its frames; of a fractional
    one voxels count that are covered by half or more. Contours must lie in the slices; a voxel counts whose centre is
    inside, of a contour within another whatever is inside one of the two only. Nothing is resampled or interpolated.

    Raises:
        DataError: a file that is damaged, has no structure or another grid, or reaches out of the volume.
    """
    from medsegdiff.data.dicom import contour_masks, segment_masks

    reader: Any = segment_masks if annotation.modality == SEGMENTATION else contour_masks
    dataset = _read(annotation.path, with_pixels=annotation.modality == SEGMENTATION)
    try:
        with lenient():
            masks = reader.read_masks(dataset, annotation.path, grid)
    except DataError as error:
        msg = f"{annotation.path.name}: {error}"
        raise DataError(msg) from error
    except (*READ_ERRORS, RuntimeError) as error:
        raise _damaged(annotation.path, error) from error
    if not masks:
        msg = f"{annotation.path.name}: got no structure with an area; allowed is one or more; leave the file out"
        raise DataError(msg)
    return [Structure(name, mask) for name, mask in masks]


def _read(path: Path, *, with_pixels: bool) -> Dataset:
    import pydicom

    try:
        with lenient():
            return pydicom.dcmread(path, force=True, stop_before_pixels=not with_pixels)
    except READ_ERRORS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> DataError:
    # What pydicom says, it may quote from the header, such as a name: only its kind is told.
    msg = (
        f"{path.name}: got a file of structures that cannot be used ({type(error).__name__}); allowed are complete, "
        "undamaged files; export it again"
    )
    return DataError(msg)
