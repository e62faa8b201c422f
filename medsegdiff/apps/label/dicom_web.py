"""What the store behind DICOMweb is asked for: its series, their files, and the segmentations that refer to them."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cachetools import TTLCache

from medsegdiff.apps.label.names import check_plain
from medsegdiff.apps.label.store import no_such_image
from medsegdiff.data.dicom.annotation import SEGMENTATION
from medsegdiff.data.dicom.headers import NO_IMAGES
from medsegdiff.data.dicom.versions import lenient, save_dicom
from medsegdiff.errors import DataError

STUDY, SERIES, MODALITY, DESCRIPTION = "0020000D", "0020000E", "00080060", "0008103E"
_SECONDS_BETWEEN_SEARCHES = 30
# Headers of segmentations, of which there may be many, are asked for less often as long as their number stays.
_SECONDS_BETWEEN_HEADERS, _MOST_HEADERS = 600, 10_000
# When a segmentation was made; of several of one series the last counts.
_MADE = ("00080023", "00080033")
_FILE, _NUMBER_OF_FILES = "00080018", "00201209"
_REFERENCES, _SEGMENTS, _SHARE = "00081115", "00620002", "00620008"
# Else a store is to decompress what it has compressed, which not every one can.
_AS_STORED = (("application/dicom", "*"),)


class StoredSegmentation(NamedTuple):
    """A segmentation in the store; the later one is the greater one."""

    made: tuple[str, ...]
    study: str
    series: str
    file: str


class DicomWeb:
    """A DICOM store behind DICOMweb. All of it raises `DataError` where the store does not answer, or with an error.

    Args:
        client: of dicomweb-client, or what is asked alike.
        filters: which series are to be found, such as `{"Modality": "MR"}`.
    """

    def __init__(self, client: Any, filters: Mapping[str, str]) -> None:
        self._client, self._filters = client, dict(filters)
        self._found: TTLCache[str, Any] = TTLCache(maxsize=4, ttl=_SECONDS_BETWEEN_SEARCHES)
        self._headers: TTLCache[tuple[str, str], list[dict[str, Any]]] = TTLCache(
            maxsize=_MOST_HEADERS, ttl=_SECONDS_BETWEEN_HEADERS
        )
        self._searching, self._fetching = threading.Lock(), threading.RLock()

    def search(self, **filters: str) -> list[dict[str, Any]]:
        """Series in DICOM's JSON."""
        return self._matching({**self._filters, **filters})

    def _matching(self, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        with _answering():
            found = list(self._client.search_for_series(search_filters=dict(filters)))
        if not all(isinstance(one, dict) for one in found):
            msg = "the address is none of a DICOM store with DICOMweb; check it, such as http://HOST:8042/dicom-web"
            raise DataError(msg)
        return found

    def series(self, image_id: str) -> dict[str, Any]:
        """What the store says of a series of images.

        Raises:
            UnknownNameError: there is no such series.
            DataError: it is none of images.
        """
        check_plain("series", image_id)
        found = next((one for one in self.search(SeriesInstanceUID=image_id) if value(one, SERIES) == image_id), None)
        if found is None:
            raise no_such_image(image_id, ask="the DICOM store")
        modality = value(found, MODALITY)
        if modality in NO_IMAGES:
            msg = (
                f"got a series that is {NO_IMAGES[modality]} ({modality}); allowed are series of images; take the one "
                "that it belongs to"
            )
            raise DataError(msg)
        return found

    def images(self) -> list[str]:
        """UIDs of all series that are images, as of half a minute ago at most."""
        return list(self._recent("images", self._find_images))

    def segmentations(self) -> dict[str, StoredSegmentation]:
        """UID of each series that a segmentation refers to, to the last one, as of half a minute ago at most.

        What an algorithm made alone, which nobody has looked at, is no label and left out.
        """
        return dict(self._recent("segmentations", self._find_segmentations))

    def forget(self) -> None:
        """Search anew when next asked."""
        with self._searching:
            self._found.clear()

    def fetch(self, study: str, series: str, folder: Path) -> None:
        """Fetch the files of a series into a folder that is not there yet: all of them, or none."""
        with self._fetching:
            if folder.is_dir():  # another thread was first
                return
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _answering(), lenient(), tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as scratch:
                files = Path(scratch) / "files"
                files.mkdir()
                fetched = self._client.retrieve_series(study, series, media_types=_AS_STORED)
                for number, dataset in enumerate(fetched):  # what the files call themselves is no name for a file
                    save_dicom(dataset, files / f"{number}.dcm")
                with contextlib.suppress(FileExistsError):  # another process was first
                    files.rename(folder)

    def store(self, file: Path) -> str:
        """Send a file; its UID."""
        import pydicom

        with _answering(), lenient():
            dataset = pydicom.dcmread(file)
            self._client.store_instances([dataset])
        self.forget()
        return str(dataset.SOPInstanceUID)

    def _recent(self, what: str, find: Callable[[], Any]) -> Any:
        """What was found within half a minute, else is found now: once for all threads that ask."""
        with self._searching:
            found = self._found.get(what)
            if found is None:
                found = self._found[what] = find()
            return found

    def _find_images(self) -> list[str]:
        return [value(one, SERIES) for one in self.search() if value(one, MODALITY) not in NO_IMAGES]

    def _find_segmentations(self) -> dict[str, StoredSegmentation]:
        made: dict[str, StoredSegmentation] = {}
        with _answering():
            for one in self._matching({"Modality": SEGMENTATION}):
                study, uid = value(one, STUDY), value(one, SERIES)
                for header in self._headers_of(study, uid, number_of_files(one)):
                    if _is_automatic(header):
                        continue
                    found = StoredSegmentation(
                        tuple(value(header, tag) for tag in _MADE), study, uid, value(header, _FILE)
                    )
                    for reference in header.get(_REFERENCES, {}).get("Value", []):
                        image = value(reference, SERIES)
                        made[image] = max(made.get(image, found), found)
        return made

    def _headers_of(self, study: str, series: str, files: str) -> list[dict[str, Any]]:
        """The headers of a series; those known where the store says that it still has as many files."""
        known = self._headers.get((series, files)) if files else None
        if known is None:
            every = self._client.retrieve_series_metadata(study, series)
            tags = (*_MADE, _FILE, _REFERENCES, _SEGMENTS)
            known = [{tag: header[tag] for tag in tags if tag in header} for header in every]
            self._headers[series, files] = known
        return known


def value(attributes: Mapping[str, Any], tag: str) -> str:
    """The first value of a tag in DICOM's JSON; empty where there is none."""
    return str(next(iter(attributes.get(tag, {}).get("Value", [])), ""))


def number_of_files(series: Mapping[str, Any]) -> str:
    """How many files the store says a series has; empty where it does not say."""
    return value(series, _NUMBER_OF_FILES)


def _is_automatic(header: Mapping[str, Any]) -> bool:
    segments = header.get(_SEGMENTS, {}).get("Value", [])
    return bool(segments) and all(value(segment, _SHARE) == "AUTOMATIC" for segment in segments)


@contextmanager
def _answering() -> Iterator[None]:
    """Say in one line that a DICOM store does not answer, or with an error."""
    import requests

    try:
        yield
    except requests.HTTPError as error:
        status = getattr(error.response, "status_code", "unknown")
        msg = f"the DICOM store refuses what it is asked for (HTTP status {status}); check its address, and its log"
        raise DataError(msg) from error
    except requests.RequestException as error:
        msg = f"the DICOM store does not answer ({type(error).__name__}); check its address and that it runs"
        raise DataError(msg) from error
