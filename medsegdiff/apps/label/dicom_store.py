"""MONAI Label's store of images and labels behind DICOMweb, which here checks what it takes and gives."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag
from numpy.typing import NDArray

from medsegdiff.apps.label.bundles import ServedBundle
from medsegdiff.apps.label.dicom_web import DESCRIPTION, MODALITY, SERIES, STUDY, DicomWeb, number_of_files, value
from medsegdiff.apps.label.kinds import check_kind
from medsegdiff.apps.label.names import check_plain
from medsegdiff.apps.label.segmentations import NAMES, SegmentationWriter
from medsegdiff.apps.label.siblings import sibling_series
from medsegdiff.apps.label.store import FreshStore, check_label, tag_text
from medsegdiff.data.dicom.annotation import read_annotation, read_structures
from medsegdiff.data.dicom.folder import find_grid, read_folder
from medsegdiff.data.dicom.grid import Grid
from medsegdiff.data.dicom.headers import NO_IMAGES
from medsegdiff.data.dicom.versions import lenient
from medsegdiff.data.reading import read_image
from medsegdiff.data.writer import write_nifti
from medsegdiff.errors import DataError, SpecError

_FINAL = DefaultLabelTag.FINAL.value
# What images and final labels in the cache are of.
_MADE_FROM, _FROM_FILE = "SeriesInstanceUID", "SOPInstanceUID"
_MOST_SEGMENTS = 255  # beside the background, which fit 8 bits
_UNFIT = ".unfit"  # of an empty file in the cache, beside the place of a series that cannot be used
# What a viewer shows of the next case. Whose it is, it knows from the store itself.
_TOLD = {"StudyDate": "00080020", "StudyTime": "00080030", "Modality": MODALITY, "StudyInstanceUID": STUDY}


class CheckedDicomStore(FreshStore, DICOMWebDatastore):
    """A DICOM store behind DICOMweb, with a cache of what was opened.

    An image is a series. One that is not one regular volume, such as one with gantry tilt or missing slices, is
    refused. Final labels are DICOM segmentations in the store, whoever made them; what an algorithm made alone is none.

    Args:
        *args: of MONAI Label's store.
        writer: of segmentations.
        **options: of MONAI Label's store.
    """

    def __init__(self, *args: Any, writer: SegmentationWriter, **options: Any) -> None:
        self.writer = writer
        self._opening = threading.RLock()
        super().__init__(*args, **options)

    @cached_property
    def web(self) -> DicomWeb:
        """The DICOM store itself."""
        return DicomWeb(self._client, self._search_filter)

    def series_folder(self, image_id: str) -> Path:
        """Folder of the files of a series, which are fetched where the cache has none, or not as many as the store.

        Raises:
            UnknownNameError: there is no such series.
            DataError: the store does not answer, or the series is none of images.
        """
        return self._folder(image_id, self.web.series(image_id))

    def _folder(self, image_id: str, series: Mapping[str, Any]) -> Path:
        folder = Path(self._datastore.image_path()).resolve() / image_id
        with self._opening:
            number = number_of_files(series)
            if folder.is_dir() and number and int(number) != len(list(folder.iterdir())):
                self._forget(image_id, folder)
            self.web.fetch(value(series, STUDY), image_id, folder)
        return folder

    def _forget(self, image_id: str, folder: Path) -> None:
        """Remove what the cache has of a series that has changed, and forget what was noted of it, such as scores."""
        shutil.rmtree(folder)
        folder.with_name(f"{image_id}.nii.gz").unlink(missing_ok=True)
        self.refresh()

    def get_image_uri(self, image_id: str) -> str:
        """Path of the series as one file, which is made where it is not in the cache.

        A series that is refused is not offered by strategies again, and fetched anew when it is asked for: what was
        missing may have come.

        Raises:
            UnknownNameError: there is no such series.
            DataError: the store does not answer, or the series is not one regular volume of images.
        """
        with self._opening:
            series = self.web.series(image_id)
            folder = self._folder(image_id, series)
            file, unfit = (folder.with_name(f"{image_id}{suffix}") for suffix in (".nii.gz", _UNFIT))
            if not file.exists():
                try:
                    voxels, affine = read_folder(folder)
                except DataError as error:
                    shutil.rmtree(folder, ignore_errors=True)
                    unfit.touch()
                    raise DataError(str(error).replace(str(folder), f"series {image_id}")) from error
                unfit.unlink(missing_ok=True)
                write_nifti(voxels.astype(np.float32), file, affine=affine)
                self.refresh()
                told = {name: value(series, tag) for name, tag in _TOLD.items()}
                super().update_image_info(image_id, {_MADE_FROM: image_id, **told})
        return str(file)

    def files_of(self, image_id: str, bundle: ServedBundle) -> list[Path]:
        """The series of the study that `image_id` is a modality of, or it alone, in the order of the channels.

        Raises:
            UnknownNameError: there is no such series.
            DataError: the study lacks a modality, or one of its series is made by another kind of device than the
                bundle's images, or is not one regular volume.
        """
        asked = self.web.series(image_id)
        check_kind(value(asked, MODALITY), bundle.kind, bundle.name)
        if bundle.modalities is None:
            return [Path(self.get_image_uri(image_id))]
        study = {
            value(one, SERIES): value(one, DESCRIPTION)
            for one in self.web.search(StudyInstanceUID=value(asked, STUDY))
            if value(one, STUDY) == value(asked, STUDY) and value(one, MODALITY) not in NO_IMAGES
        }
        return [Path(self.get_image_uri(series)) for series in sibling_series(image_id, study, bundle.modalities)]

    def list_images(self) -> list[str]:
        """UIDs of all series that are images, as of half a minute ago at most."""
        return self.web.images()

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the series that a segmentation in the store refers to, as of half a minute ago at most."""
        known = set(self.list_images())
        return [series for series in self.web.segmentations() if series in known]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the other series, without those that were found to be no regular volume."""
        cache = Path(self._datastore.image_path())
        left_out = {*self.web.segmentations(), *(path.name.removesuffix(_UNFIT) for path in cache.glob(f"*{_UNFIT}"))}
        return [series for series in self.list_images() if series not in left_out]

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of the label of a series, empty where it has none.

        A final one is the last segmentation in the store that refers to it, whose segment k becomes value k.

        Raises:
            DataError: the store does not answer, or the segmentation is damaged, on another grid, or has segments of
                one name or more than 255.
        """
        check_plain("series", label_id)
        tag = tag_text(label_tag)
        made_from = self.web.segmentations().get(label_id) if tag == _FINAL else None
        if made_from is not None:
            self.get_image_uri(label_id)  # where that has changed, the label is made anew
        kept = str(LocalDatastore.get_label_uri(self, label_id, tag))
        if made_from is None or self.get_label_info(label_id, tag).get(_FROM_FILE) == made_from.file:
            return kept
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "segmentation"
            self.web.fetch(made_from.study, made_from.series, folder)
            file = Path(scratch) / "label.nii.gz"
            grid = find_grid(self.series_folder(label_id))
            label, names = _read_segmentation(folder, made_from.file, grid)
            write_nifti(label, file, affine=grid.affine)
            info = {_FROM_FILE: made_from.file, NAMES: [{"name": name} for name in names]}
            with self.changing():
                LocalDatastore.save_label(self, label_id, str(file), tag, info)
        return str(LocalDatastore.get_label_uri(self, label_id, tag))

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Image and label of each labelled series that both can be read of."""
        pairs = []
        for image_id in self.get_labeled_images():
            with contextlib.suppress(DataError):
                image, label = self.get_image_uri(image_id), self.get_label_uri(image_id, _FINAL)
                pairs.append({"image": image, "label": label})
        return pairs

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something about a series, which is fetched where it is not in the cache."""
        self.get_image_uri(image_id)
        super().update_image_info(image_id, info)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label that fits its image; a final one goes to the store as a DICOM segmentation.

        Args:
            image_id: UID of the series.
            label_filename: an image file, or with the suffix .bin the bare voxels, as OHIF sends them.
            label_tag: "final", or another name.
            label_info: what is known of it, see `SegmentationWriter.write`.
            label_id: not used; a label is called after its image.

        Raises:
            UnknownNameError: there is no such series.
            SpecError: a tag that is no name, or names and colours that are none.
            DataError: the label is damaged or on another grid, or is final and empty.
        """
        tag = tag_text(label_tag)
        image = Path(self.get_image_uri(image_id))
        with _as_image(Path(label_filename), image) as label:
            check_label(image, label, final=tag == _FINAL)
            if tag == _FINAL:
                label_info = {**label_info, _FROM_FILE: self._send(label, image_id, label_info)}
            with self.changing():
                saved = str(LocalDatastore.save_label(self, image_id, str(label), tag, label_info))
        return saved

    def as_segmentation(self, label: Path, image_id: str, info: Mapping[str, Any]) -> Path:
        """A label map as a temporary DICOM segmentation of its series; arguments and errors see the writer's."""
        return self.writer.write(label, self.series_folder(image_id), info)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Images come into a DICOM store in other ways.

        Raises:
            SpecError: always.
        """
        msg = "got an image to keep; send it to the DICOM store itself, as its series"
        raise SpecError(msg)

    def remove_image(self, image_id: str) -> None:
        """Images are removed from a DICOM store in other ways.

        Raises:
            SpecError: always.
        """
        msg = "got an image to remove; remove it in the DICOM store itself"
        raise SpecError(msg)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label that is none of the DICOM store.

        Raises:
            SpecError: a final label, which is one.
        """
        if tag_text(label_tag) == _FINAL:
            msg = "got a final label to remove; remove its segmentation in the DICOM store itself"
            raise SpecError(msg)
        super().remove_label(label_id, label_tag)

    def _send(self, label: Path, image_id: str, info: Mapping[str, Any]) -> str:
        """Send a label to the DICOM store as a segmentation; UID of its file."""
        file = self.as_segmentation(label, image_id, info)
        try:
            return self.web.store(file)
        finally:
            file.unlink()


def _read_segmentation(folder: Path, file: str, grid: Grid) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The label map (*S) of the segmentation of this UID among those of a series, and the names of its segments.

    Segment k becomes value k; where segments overlap, the last counts.

    Raises:
        DataError: it is damaged, on another grid, or has segments of one name or more than a label map can hold.
    """
    import pydicom

    with lenient():
        headers = {path: pydicom.dcmread(path, force=True, stop_before_pixels=True) for path in folder.iterdir()}
    path = next((path for path, header in headers.items() if header.get("SOPInstanceUID") == file), None)
    if path is None:
        msg = "got no segmentation where the DICOM store had one; ask again in half a minute"
        raise DataError(msg)
    annotation = read_annotation(path)
    different = len(set(annotation.names))
    if not different == len(annotation.names) <= _MOST_SEGMENTS:
        msg = (
            f"got a segmentation of {len(annotation.names)} segments with {different} different names; allowed are up "
            f"to {_MOST_SEGMENTS}, each with a name of its own: name or divide them so"
        )
        raise DataError(msg)
    label = np.zeros(grid.shape, np.uint8)
    for structure in read_structures(annotation, grid):
        label[structure.mask] = annotation.names.index(structure.name) + 1
    return label, annotation.names


@contextmanager
def _as_image(label: Path, image: Path) -> Iterator[Path]:
    """A label as an image file, which bare voxels become for the time of the block.

    Raises:
        DataError: not one byte a voxel.
    """
    if label.suffix != ".bin":
        yield label
        return
    raw = read_image(image)
    voxels, stored = raw.array.size, label.stat().st_size
    if stored != voxels:
        msg = f"got a label of {stored} voxels for an image of {voxels}; allowed is one byte a voxel: send it again"
        raise DataError(msg)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "label.nii.gz"
        write_nifti(np.fromfile(label, np.uint8).reshape(raw.array.shape, order="F"), file, affine=raw.affine)
        yield file
