"""MONAI Label's stores of images and labels, which here check what goes into them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import TTLCache
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from medsegdiff.apps.label.errors import UnknownNameError
from medsegdiff.apps.label.names import check_plain
from medsegdiff.apps.label.siblings import sibling_files, sibling_series
from medsegdiff.data.dicom.folder import find_grid
from medsegdiff.data.dicom.headers import NO_IMAGES
from medsegdiff.data.integrity import check_affine, check_axes, check_finite, check_same_grid, count_classes, facts_of
from medsegdiff.data.modalities import Modalities
from medsegdiff.data.reading import PICTURE_SUFFIXES, image_suffix, read_image
from medsegdiff.errors import DataError

_LABEL_VALUES = 256
_SECONDS_BETWEEN_SEARCHES = 30


class FreshStore(LocalDatastore):
    """A store whose index is written by several threads, and by the processes that train and score.

    Before each change, what others wrote to `datastore_v2.json` is taken up, so that it does not get lost.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._changing = threading.RLock()
        super().__init__(*args, **options)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The index as it is on the disk, while no other thread changes it."""
        with self._changing:
            self._init_from_datastore_file()
            yield

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something about an image."""
        with self.changing():
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something about a label."""
        with self.changing():
            super().update_label_info(label_id, label_tag, info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label."""
        with self.changing():
            super().remove_label(label_id, label_tag)
            super().refresh()

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels."""
        with self.changing():
            super().remove_image(image_id)
            super().refresh()  # else it would be known until the folder's watcher comes by

    def refresh(self) -> None:
        """Take up what changed on the disk."""
        with self._changing:
            super().refresh()


class CheckedStore(FreshStore):
    """A folder of images, with labels and `datastore_v2.json` below it.

    Names that would leave the folder, labels that are damaged or on another grid than their image, and images that
    cannot be read are refused before anything is written.
    """

    def get_image_uri(self, image_id: str) -> str:
        """Path of an image.

        Raises:
            UnknownNameError: there is none of this name.
        """
        return _known(super().get_image_uri(check_plain("name of an image", image_id)), image_id)

    def files_of(self, image_id: str, modalities: Modalities | None) -> list[Path]:
        """The files of the image that `image_id` is, or is a modality of.

        Raises:
            UnknownNameError: there is no such image.
            DataError: the case lacks a modality.
        """
        path = Path(self.get_image_uri(image_id))
        return [path] if modalities is None else sibling_files(path, modalities)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image that can be read.

        Raises:
            SpecError: a name that is none.
            DataError: an image that cannot be read.
        """
        check_plain("name of an image", image_id)
        raw = read_image(image_filename)
        check_affine(Path(image_filename), raw.affine)
        check_finite(Path(image_filename), raw.array)
        with self.changing():
            return str(super().add_image(image_id, image_filename, image_info))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label that fits its image.

        Raises:
            UnknownNameError: there is no such image.
            SpecError: a tag that is no name.
            DataError: the label is damaged, on another grid, or holds other than whole numbers from 0 to 255.
        """
        image = self.get_image_uri(image_id)
        check_plain("tag", _text(label_tag))
        check_label(Path(image), Path(label_filename))
        with self.changing():
            return str(super().save_label(image_id, label_filename, _text(label_tag), label_info))

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """All labelled cases in one file.

        Raises:
            DataError: there are none.
        """
        if not self.get_labeled_images():
            msg = "got a request for all labelled cases, of which there are none; save a label first"
            raise DataError(msg)
        return str(super().get_dataset_archive(limit_cases))


class CheckedDicomStore(FreshStore, DICOMWebDatastore):
    """A DICOM store behind DICOMweb, with a cache of what was opened.

    A series that is not one regular volume, such as one with gantry tilt or missing slices, is refused: the conversion
    that the cache is filled by would bend it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._found: TTLCache[str, list[str]] = TTLCache(maxsize=4, ttl=_SECONDS_BETWEEN_SEARCHES)
        super().__init__(*args, **options)

    def get_image_uri(self, image_id: str) -> str:
        """Path of the converted series, which is fetched where it is not in the cache.

        Raises:
            UnknownNameError: there is no such series.
            DataError: the store does not answer, or the series is not one regular volume of images.
        """
        check_plain("series", image_id)
        folder = Path(self._datastore.image_path()).resolve() / image_id
        converted = folder.with_name(f"{image_id}.nii.gz")
        if not converted.exists():
            if image_id not in self.list_images():
                return _known("", image_id)
            if not folder.is_dir() or not any(folder.iterdir()):
                self._fetch(image_id, folder)
            find_grid(folder)
        with _answering(), self.changing():
            given = Path(super().get_image_uri(image_id))
        if given != converted:  # what was converted first, and copied to its place
            given.unlink(missing_ok=True)
        return str(converted)

    def files_of(self, image_id: str, modalities: Modalities | None) -> list[Path]:
        """The converted series of the study that `image_id` is a modality of, or it alone.

        Raises:
            UnknownNameError: there is no such series.
            DataError: the study lacks a modality, or one of its series is not one regular volume.
        """
        if modalities is None:
            return [Path(self.get_image_uri(image_id))]
        check_plain("series", image_id)
        if image_id not in self.list_images():
            _known("", image_id)
        study = next(one for one in self._search() if _value(one, "0020000E") == image_id)
        same = {
            _value(one, "0020000E"): _value(one, "0008103E")
            for one in self._search()
            if _value(one, "0020000D") == _value(study, "0020000D")
        }
        return [Path(self.get_image_uri(series)) for series in sibling_series(image_id, same, modalities)]

    def list_images(self) -> list[str]:
        """UIDs of all series that are images, as of half a minute ago at most."""
        if "images" not in self._found:
            self._found["images"] = [_value(one, "0020000E") for one in self._search()]
        return list(self._found["images"])

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the series that a segmentation in the store refers to, as of half a minute ago at most."""
        if "labelled" not in self._found:
            with _answering():
                found = DICOMWebDatastore.get_labeled_images.__wrapped__(self)
            self._found["labelled"] = [str(series) for series in found]
        return list(self._found["labelled"])

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """UIDs of the other series."""
        labelled = set(self.get_labeled_images())
        return [series for series in self.list_images() if series not in labelled]

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something about a series, which is fetched where it is not in the cache."""
        self.get_image_uri(image_id)
        super().update_image_info(image_id, info)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Keep a label that fits its image; a final one goes to the store as a DICOM segmentation.

        Raises:
            UnknownNameError: there is no such series.
            SpecError: a tag that is no name.
            DataError: the label is damaged or on another grid, or is final and empty.
        """
        tag = _text(check_plain("tag", _text(label_tag)))
        image = Path(self.get_image_uri(image_id))
        label = Path(label_filename)
        if label.suffix == ".bin":  # the bare voxels, as OHIF sends them
            _check_voxels(image, label)
        else:
            check_label(image, label, final=tag == DefaultLabelTag.FINAL.value)
        with _answering(), self.changing():
            saved = str(super().save_label(image_id, label_filename, tag, label_info))
        self._found.clear()
        return saved

    def _search(self) -> list[dict[str, Any]]:
        with _answering():
            found = self._client.search_for_series(search_filters=self._search_filter)
        return [one for one in found if _value(one, "00080060") not in NO_IMAGES]

    def _fetch(self, series: str, folder: Path) -> None:
        from monailabel.datastore.utils.dicom import dicom_web_download_series

        with _answering():
            dicom_web_download_series(None, series, str(folder), self._client, self._fetch_by_frame)


def check_label(image_path: Path, label_path: Path, *, final: bool = False) -> None:
    """Make sure that a label can be read, lies on the grid of its image and holds whole numbers from 0 to 255.

    Raises:
        DataError: one of these fails, or a label that has to have foreground is empty.
    """
    dims = 2 if image_suffix(image_path) in PICTURE_SUFFIXES else 3
    image, label = read_image(image_path), read_image(label_path)
    check_axes(label_path, label, spatial_dims=dims, channels=1)
    check_affine(label_path, label.affine)
    check_finite(label_path, label.array)
    check_same_grid(facts_of(image_path, image, dims), facts_of(label_path, label, dims))
    if final or label.array.any():
        count_classes(label_path, label.array, _LABEL_VALUES)


def _check_voxels(image_path: Path, label_path: Path) -> None:
    voxels = int(np.prod(read_image(image_path).array.shape))
    stored = label_path.stat().st_size
    if stored != voxels:
        msg = f"got a label of {stored} voxels for an image of {voxels}; allowed is one byte a voxel: send it again"
        raise DataError(msg)


def _known(path: str, image_id: str) -> str:
    if not path or not os.path.exists(path):
        msg = f"image {image_id!r} does not exist; ask /datastore/?output=all for those that do"
        raise UnknownNameError(msg)
    return path


def _value(series: dict[str, Any], tag: str) -> str:
    """The first value of a tag in DICOM's JSON."""
    return str(next(iter(series.get(tag, {}).get("Value", [])), ""))


def _text(tag: Any) -> str:
    return str(getattr(tag, "value", tag))


@contextmanager
def _answering() -> Iterator[None]:
    """Say in one line that a DICOM store does not answer."""
    import requests

    try:
        yield
    except requests.RequestException as error:
        msg = f"the DICOM store does not answer ({type(error).__name__}); check its address and that it runs"
        raise DataError(msg) from error
