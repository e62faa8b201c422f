"""MONAI Label's store of images and labels in a folder, which here checks what goes into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import LocalDatastore

from medsegdiff.apps.label.bundles import ServedBundle
from medsegdiff.apps.label.errors import UnknownNameError
from medsegdiff.apps.label.names import check_plain
from medsegdiff.apps.label.segmentations import NAMES, segments_of
from medsegdiff.apps.label.siblings import sibling_files
from medsegdiff.data.integrity import check_affine, check_axes, check_finite, check_same_grid, count_classes, facts_of
from medsegdiff.data.reading import PICTURE_SUFFIXES, image_suffix, read_image
from medsegdiff.errors import DataError, SpecError

_LABEL_VALUES = 256
_LOCK = ".changing.lock"  # MONAI Label has one of its own, for a reading or a writing alone


class FreshStore(LocalDatastore):
    """A store whose index is written by several threads, and by the processes that train and score.

    Before each change, what others wrote to `datastore_v2.json` is taken up, so that it does not get lost, and nobody
    else writes until the change is done.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._changing = threading.RLock()
        super().__init__(*args, **options)

    @cached_property
    def _alone(self) -> FileLock:
        """Held by one process at a time; a thread that has it may take it again."""
        return FileLock(Path(self._datastore_path) / _LOCK)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The index as it is on the disk, while no other thread or process changes it."""
        with self._changing, self._alone:
            self._init_from_datastore_file()
            yield

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something about an image."""
        with self.changing():
            super().update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something about a label.

        Raises:
            SpecError: names and colours that are none.
        """
        segments_of(info.get(NAMES))
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
        with self._changing, self._alone:
            super().refresh()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """All labelled cases in one file.

        Raises:
            DataError: there are none.
        """
        if not self.get_labeled_images():
            msg = "got a request for all labelled cases, of which there are none; save a label first"
            raise DataError(msg)
        return str(super().get_dataset_archive(limit_cases))


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
        path = super().get_image_uri(check_plain("name of an image", image_id))
        if not path or not os.path.exists(path):
            raise no_such_image(image_id)
        return str(path)

    def files_of(self, image_id: str, bundle: ServedBundle) -> list[Path]:
        """The files of the image that `image_id` is, or is a modality of, in the order of the bundle's channels.

        Raises:
            UnknownNameError: there is no such image.
            DataError: the case lacks a modality.
        """
        path = Path(self.get_image_uri(image_id))
        return [path] if bundle.modalities is None else sibling_files(path, bundle.modalities)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image that can be read.

        Raises:
            SpecError: a name that is none, or that another image has.
            DataError: an image that cannot be read.
        """
        check_plain("name of an image", image_id)
        if image_id in self.list_images():
            msg = f"got an image {image_id!r}, which exists; allowed are new names: give one, or remove that one"
            raise SpecError(msg)
        raw = read_image(image_filename)
        check_affine(Path(image_filename), raw.affine)
        check_finite(Path(image_filename), raw.array)
        with self.changing():
            return str(super().add_image(image_id, image_filename, image_info))

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label that fits its image.

        Raises:
            UnknownNameError: there is no such image.
            SpecError: a tag that is no name, or names and colours that are none.
            DataError: the label is damaged, on another grid, or holds other than whole numbers from 0 to 255.
        """
        image = self.get_image_uri(image_id)
        tag = tag_text(label_tag)
        segments_of(label_info.get(NAMES))
        check_label(Path(image), Path(label_filename))
        with self.changing():
            return str(super().save_label(image_id, label_filename, tag, label_info))


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


def no_such_image(image_id: str, *, ask: str = "/datastore/?output=all") -> UnknownNameError:
    """The error of an image that a store does not have."""
    return UnknownNameError(f"image {image_id!r} does not exist; ask {ask} for those that do")


def tag_text(tag: Any) -> str:
    """A tag, which MONAI Label has as an enumeration too, as a plain name.

    Raises:
        SpecError: it is none.
    """
    return check_plain("tag", getattr(tag, "value", tag))
