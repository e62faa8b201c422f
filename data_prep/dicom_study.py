"""What folders and archives of DICOM files hold: the volumes, and whatever is none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.folders import extract_archive
from medsegdiff.data.dicom.annotation import ANNOTATIONS, Annotation, read_annotation
from medsegdiff.data.dicom.headers import is_dicom
from medsegdiff.data.dicom.plan import Item, Selection, plan
from medsegdiff.data.dicom.series import Scan, find_series
from medsegdiff.errors import DataError, one_line


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A file of structures.

    Attributes:
        item: name of the item of its series.
        annotation: what it says of itself.
    """

    item: str
    annotation: Annotation


@dataclass(frozen=True, eq=False, kw_only=True)
class Study:
    """What there is in the sources.

    Attributes:
        items: volumes, and series of which none is made.
        damaged: a line for each DICOM file whose header cannot be read.
        copies: number of files that are byte for byte in a series already.
        ignored: number of files that are not DICOM.
        label_files: segmentations and contours that can be read.
        shown: takes the words that name a patient or an examination out of a text.
    """

    items: tuple[Item, ...]
    damaged: tuple[str, ...]
    copies: int
    ignored: int
    label_files: tuple[LabelFile, ...]
    shown: Callable[[str], str]

    @property
    def converted(self) -> list[Item]:
        """Volumes that are, or can be, converted."""
        return [item for item in self.items if item.grid is not None]

    @property
    def refused(self) -> list[Item]:
        """Volumes that were asked for and cannot be converted."""
        return [item for item in self.items if item.refused]

    @property
    def skipped(self) -> list[Item]:
        """Series that were left aside."""
        return [item for item in self.items if item.skipped]

    @property
    def is_whole(self) -> bool:
        """Whether nothing was refused."""
        return not self.refused and not self.damaged


@contextmanager
def open_study(
    sources: Sequence[str | Path],
    *,
    series: Sequence[str] = (),
    modalities: Sequence[str] = (),
    keep_ids: bool = False,
) -> Iterator[Study]:
    """Read all headers; files that come out of archives exist inside the block only.

    Args:
        sources: folders, archives (zip, tar, tar.gz) or files.
        series: shell patterns of descriptions or SeriesInstanceUIDs; none for all volumes.
        modalities: such as MR; none for all.
        keep_ids: let names begin with the PatientID, and leave descriptions as they are.

    Raises:
        DataError: a source that is missing or cannot be read, or no DICOM file in any.
    """
    with tempfile.TemporaryDirectory(prefix="dicom_") as folder:
        roots = [_root(Path(source), Path(folder) / str(i)) for i, source in enumerate(sources)]
        files = {path: None for root in roots for path in _files(root)}
        scan = find_series(files)
        if not scan.images and not scan.others and not scan.damaged:
            msg = (
                f"{', '.join(map(str, sources))}: got {len(files)} files and no DICOM among them; allowed are folders "
                "or archives of DICOM files; check the path"
            )
            raise DataError(msg)
        damaged = [str(error) for error in scan.damaged]
        for root in roots:
            damaged = [line.replace(f"{root if root.is_dir() else root.parent}{os.sep}", "") for line in damaged]
        shown = _unchanged if keep_ids else scan.without_identity
        selection = Selection(patterns=tuple(series), modalities=tuple(modalities))
        label_files, items = _label_files(scan, plan(scan, selection, keep_ids=keep_ids), shown)
        yield Study(
            items=items,
            damaged=tuple(map(shown, damaged)),
            copies=scan.copies,
            ignored=scan.ignored,
            label_files=label_files,
            shown=lambda text: " ".join(shown(text).split()),
        )


def _label_files(
    scan: Scan, items: Sequence[Item], shown: Callable[[str], str]
) -> tuple[tuple[LabelFile, ...], tuple[Item, ...]]:
    """The files of structures, and the items: refused where such a file is damaged, not skipped where it has labels."""
    names = {item.header.path: item.name for item in items}
    refused: dict[str, str] = {}
    found = []
    for series in scan.others:
        for header in series.headers if series.first.modality in ANNOTATIONS else ():
            name = names[series.first.path]
            try:
                found.append(LabelFile(name, read_annotation(header.path)))
            except DataError as error:
                refused[name] = shown(one_line(error))
    named = {file.item for file in found if file.annotation.names}
    return tuple(found), tuple(
        replace(item, skipped="", refused=refused.get(item.name, "")) if item.name in named | set(refused) else item
        for item in items
    )


def _unchanged(text: str) -> str:
    return text


def _root(source: Path, extracted: Path) -> Path:
    if not source.exists():
        msg = f"{source}: there is no such file or folder; give a folder, an archive or a file of DICOM"
        raise DataError(msg)
    if source.is_dir() or is_dicom(source):
        return source
    extract_archive(source, extracted)
    return extracted


def _files(root: Path) -> Iterator[Path]:
    """All files under a folder, or the file itself, in a fixed order; hidden ones are left out."""
    if root.is_file():
        yield root
        return
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link upwards
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))
