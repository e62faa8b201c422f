"""The files of a published data set, which may be packed, and packed once more inside."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from data_prep.drafts import Draft
from data_prep.folders import extract_archive, files_below
from medsegdiff.errors import SpecError

logger = logging.getLogger(__name__)

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_EXTRACTED = ".extracted"


class Source:
    """A folder or an archive, and its files by their names in it.

    Archives are extracted into the draft, once: the next run finds what an interrupted one has extracted. Of a file
    in an archive inside the source, the name begins with that of the archive: `data.zip/data/001000_img.nii`.

    Args:
        path: folder or archive.
        draft: where to extract to.
        link: whether links to the files are wanted, which what is extracted cannot have.

    Raises:
        DataError: a damaged archive, or a file that is none.
        SpecError: links into an archive.
    """

    def __init__(self, path: Path, draft: Draft, *, link: bool = False) -> None:
        self.files: dict[str, Path] = {}
        self.scratch = draft.folder / _EXTRACTED
        self._draft = draft
        self._link = link
        self._roots: list[tuple[Path, str]] = []
        self._opened: set[str] = set()
        if path.is_dir():
            self._add(path, prefix="")
        else:
            self._extract(path, self.scratch / "source", prefix="")

    @property
    def closed_archives(self) -> dict[str, Path]:
        """Archives among the files that have not been opened."""
        return {
            name: path
            for name, path in self.files.items()
            if name.lower().endswith(ARCHIVE_SUFFIXES) and name not in self._opened
        }

    def open_archives(self) -> bool:
        """Add the files of the archives among the files; returns whether there were any.

        Raises:
            DataError: a damaged archive.
            SpecError: links into an archive.
        """
        archives = self.closed_archives
        for number, (name, path) in enumerate(archives.items(), start=len(self._opened)):
            self._extract(path, self.scratch / f"inner_{number}", prefix=f"{name}/")
            self._opened.add(name)
        return bool(archives)

    def is_extracted(self, path: Path) -> bool:
        """Whether a file lies in the draft, and not where the user has it."""
        return path.is_relative_to(self.scratch)

    def in_own_terms(self, text: str) -> str:
        """Paths as they are in the source: those of extracted archives are gone afterwards."""
        for root, prefix in self._roots:
            text = text.replace(f"{root}{os.sep}", prefix)
        return text

    def remove_extracted(self) -> None:
        """Free the space of what was extracted."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _extract(self, archive: Path, folder: Path, *, prefix: str) -> None:
        if self._link:
            msg = f"{archive}: got link for an archive; allowed is a folder; extract it first or leave out link"
            raise SpecError(msg)
        status = archive.stat()
        step, key = f"extract {folder.name}", [str(archive), status.st_size, status.st_mtime_ns]
        if self._draft.result_of(step, key) is None or not folder.is_dir():
            logger.info("extracting %s", archive.name)
            partial = folder.with_name(f"{folder.name}.partial")
            for leftover in (folder, partial):
                shutil.rmtree(leftover, ignore_errors=True)
            try:
                extract_archive(archive, partial)
                partial.replace(folder)
            finally:  # of a full disk, the half that is of no use
                shutil.rmtree(partial, ignore_errors=True)
            self._draft.record(step, key, {})
        self._add(folder, prefix=prefix)

    def _add(self, root: Path, *, prefix: str) -> None:
        self._roots.append((root, prefix))
        self.files |= {f"{prefix}{path.relative_to(root).as_posix()}": path for path in files_below(root)}
