"""Which volumes of a study are to be converted, what each is called, and why the others are not."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from medsegdiff.data.dicom.grid import Grid
from medsegdiff.data.dicom.headers import Header
from medsegdiff.data.dicom.series import Scan, Series
from medsegdiff.data.dicom.volumes import Volume, find_volumes

_LONGEST_SLUG = 40


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which series are wanted.

    Attributes:
        patterns: shell patterns, such as `t2*`, of descriptions or SeriesInstanceUIDs, in any case; without one, all
            but localisers, secondary captures, single slices and pictures without a place in the patient.
        modalities: DICOM's words, such as MR, in any case; none for all.
    """

    patterns: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()

    def why_not(self, series: Series, description: str) -> str | None:
        """Why a series of images is left aside; None for one to convert.

        Args:
            series: of images.
            description: of the series, as it is shown.
        """
        header = series.first
        if self.modalities and header.modality.upper() not in map(str.upper, self.modalities):
            return f"of another modality, {header.modality or 'none'}"
        if not self.patterns:
            return series.why_no_volume()
        texts = [text.lower() for text in (header.description, description, header.series_uid)]
        wanted = any(fnmatchcase(text, pattern.lower()) for text in texts for pattern in self.patterns)
        return None if wanted else "not among the series asked for"


@dataclass(frozen=True, eq=False, kw_only=True)
class Item:
    """A volume, or a series of which none is made.

    Attributes:
        name: of the file to write, without suffix; no two items share one.
        case: the study, such as `case_001`, numbered in the order of the files.
        header: of the first file of the series.
        description: of the series, as it may be shown.
        part: what tells the volume from others of its series; empty if there are none.
        slices: number of slices.
        grid: of the volume; None if there is none to convert.
        skipped: why it is left aside; empty if it is not.
        refused: the one line that says why it cannot be converted; empty if it can, or is left aside.
    """

    name: str
    case: str
    header: Header
    description: str
    part: str = ""
    slices: int
    grid: Grid | None = None
    skipped: str = ""
    refused: str = ""


def plan(scan: Scan, selection: Selection, *, keep_ids: bool = False) -> list[Item]:
    """List the volumes and whatever is none, by case and series number.

    The numbers of cases do not depend on the selection. Without `keep_ids` names, and all that is said of a series, are
    free of the words by which the headers name patients.

    Args:
        scan: what was found.
        selection: what is wanted.
        keep_ids: let names begin with the PatientID, and leave descriptions as they are.
    """
    cases: dict[tuple[str, ...], int] = {}
    found = [*scan.images, *scan.others]
    for series in sorted(found, key=lambda series: series.first.path):
        cases.setdefault(_study(series.first), len(cases) + 1)
    found.sort(key=lambda series: (cases[_study(series.first)], series.first.series_number or 0))
    items: list[Item] = []
    for series in found:
        case = f"case_{cases[_study(series.first)]:03}"
        items.extend(_items(scan, series, selection, case, keep_ids=keep_ids))
    return _uniquely_named(items)


def _items(scan: Scan, series: Series, selection: Selection, case: str, *, keep_ids: bool) -> Iterator[Item]:
    header = series.first
    description = " ".join((header.description if keep_ids else scan.without_identity(header.description)).split())
    number = "" if header.series_number is None else f"s{header.series_number:03}"
    what = (_slug(description) or _slug(header.modality)).lower()
    words = [_slug(header.patient_id) if keep_ids else "", case, number, what]
    item = Item(
        name="_".join(filter(None, words)),
        case=case,
        header=header,
        description=description,
        slices=len(series.frames),
        skipped=header.no_image or selection.why_not(series, description) or "",
    )
    if item.skipped:
        yield item
        return
    for volume in find_volumes(series.frames):
        part = replace(item, part=volume.label, name="_".join(filter(None, [item.name, _slug(volume.label).lower()])))
        if isinstance(volume, Volume):
            yield replace(part, slices=volume.grid.shape[2], grid=volume.grid)
        else:
            yield replace(part, refused=volume.reason if keep_ids else scan.without_identity(volume.reason))


def _study(header: Header) -> tuple[str, ...]:
    known = (header.patient_id, header.study_uid)
    return known if any(known) else (str(header.path.parent),)


def _slug(text: str) -> str:
    """Letters, digits, hyphens and single underscores of `text`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^0-9A-Za-z-]+", "_", plain)[:_LONGEST_SLUG].strip("_-")


def _uniquely_named(items: list[Item]) -> list[Item]:
    taken: set[str] = set()
    renamed = []
    for item in items:
        name, number = item.name, 1
        while name in taken:
            number += 1
            name = f"{item.name}_{number}"
        taken.add(name)
        renamed.append(replace(item, name=name))
    return renamed
