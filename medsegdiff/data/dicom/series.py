"""The series in any number of files, and what else lies among them."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from medsegdiff.data.dicom.frames import Frame
from medsegdiff.data.dicom.headers import Header, read_header
from medsegdiff.errors import DataError

# Modalities of sections: where one of them lacks a place in the patient something went wrong; of others it is usual.
SECTIONAL = ("CT", "MR", "PT")
_FEWEST_SLICES = 2
_LOCALISER = re.compile(
    r"(?<![a-z])(locali[sz]ers?|loc|scouts?|surveys?|surview|topograms?|scanograms?)(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Series:
    """Files of one SeriesInstanceUID that are all images, or all something else.

    Files without a SeriesInstanceUID are a series if they share folder, series number and description.

    Attributes:
        headers: of its files, in the order in which they were found; copies left out.
    """

    headers: tuple[Header, ...]

    @property
    def first(self) -> Header:
        """The header of the file that was found first; what is said of a series is the same in all."""
        return self.headers[0]

    @cached_property
    def frames(self) -> tuple[Frame, ...]:
        """All slices."""
        return tuple(frame for header in self.headers for frame in header.frames)

    def why_no_volume(self) -> str | None:
        """Why this series is left aside unless it is asked for by name; None for a volume, sound or not."""
        if self.first.is_secondary_capture:
            return "a secondary capture, such as a picture of a screen"
        is_localiser = all("LOCALIZER" in header.image_type for header in self.headers)
        if is_localiser or _LOCALISER.search(self.first.description):
            return "a localiser"
        if len(self.frames) < _FEWEST_SLICES:
            return "a single slice"
        if self.first.modality not in SECTIONAL and not any(frame.has_place for frame in self.frames):
            return "pictures without a place in the patient"
        return None


@dataclass(frozen=True, eq=False)
class Scan:
    """What was found among some files.

    Attributes:
        images: series of images, sound or not, in the order in which they were found.
        others: series of something else, such as contours or reports.
        damaged: errors of DICOM files whose headers cannot be read.
        copies: number of files that are byte for byte in a series already.
        ignored: number of files that are not DICOM.
    """

    images: tuple[Series, ...]
    others: tuple[Series, ...]
    damaged: tuple[DataError, ...]
    copies: int
    ignored: int

    def without_identity(self, text: str) -> str:
        """`text` without the words by which any of the headers names a patient or an examination.

        Words of fewer than three characters stay: they are found in any text.
        """
        for word in self._identities:
            text = re.sub(rf"(?<![0-9A-Za-z]){re.escape(word)}(?![0-9A-Za-z])", "", text, flags=re.IGNORECASE)
        return text

    @cached_property
    def _identities(self) -> list[str]:
        headers = (header for series in (*self.images, *self.others) for header in series.headers)
        words = {word for header in headers for word in header.identities if len(word) > 2}
        return sorted(words, key=len, reverse=True)  # a name before the name within it


def find_series(files: Iterable[Path]) -> Scan:
    """Read the headers of files and group them by series.

    Args:
        files: of any kind; those that are not DICOM are counted, a DICOMDIR is left out.
    """
    groups: dict[tuple[str, str | None], dict[object, list[Header]]] = {}
    damaged: list[DataError] = []
    copies = ignored = 0
    for path in tqdm(list(files), desc="reading headers", unit="file", disable=None):
        try:
            header = read_header(path)
        except DataError as error:
            damaged.append(error)
            continue
        if header is None:
            ignored += path.name.upper() != "DICOMDIR"
            continue
        # One UID is no proof of a copy: there are anonymisers that give the same to every file.
        twins = groups.setdefault((_series_key(header), header.no_image), {}).setdefault(_content_key(header), [])
        if any(filecmp.cmp(path, twin.path, shallow=False) for twin in twins):
            copies += 1
        else:
            twins.append(header)
    found = [Series(tuple(header for twins in group.values() for header in twins)) for group in groups.values()]
    return Scan(
        images=tuple(series for series in found if series.first.no_image is None),
        others=tuple(series for series in found if series.first.no_image is not None),
        damaged=tuple(damaged),
        copies=copies,
        ignored=ignored,
    )


def _series_key(header: Header) -> str:
    return header.series_uid or f"{header.path.parent} {header.series_number} {header.description}"


def _content_key(header: Header) -> object:
    position = header.frames[0].position if header.frames else None
    return header.uid, None if position is None else tuple(position.tolist())
