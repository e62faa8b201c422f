"""What became of each case of an output folder, written so that a killed process loses no finished work."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from medsegdiff.errors import DataError, one_line

MANIFEST_NAME = "manifest.jsonl"
# Headers whose voxels lie in a file of their own beside them.
_DETACHED_HEADERS = (".mhd", ".nhdr")


class Manifest:
    """`manifest.jsonl`: a line of JSON for everything that happened to a case, the newest last.

    The last line of a case holds. A case is written down as started before any of its results is touched, so that
    results of an interrupted run never pass for those of an earlier one. Lines are appended and on the disk before the
    next step is taken. A killed process leaves at worst a torn line, which counts as if it had not been written; where
    several processes write into one folder, a lock keeps their lines apart, and on a file system without locks a lost
    line makes a case be done again.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST_NAME

    def read(self) -> dict[str, dict[str, Any]]:
        """The last record of each case, by the case's name.

        Raises:
            DataError: the file is there and cannot be read.
        """
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        except OSError as error:
            msg = f"{self.path} cannot be read ({one_line(error)}); make it readable, or leave out --resume"
            raise DataError(msg) from error
        records = {}
        for line in lines:
            with contextlib.suppress(ValueError):  # a torn line
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("case"), str):
                    records[record["case"]] = record
        return records

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record, which has a "case" and a "status", and have it on the disk.

        Raises:
            DataError: it cannot be written.
        """
        line = json.dumps(record).encode() + b"\n"
        try:
            with self.path.open("a+b") as file, _locked(file):
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        line = b"\n" + line  # after a torn line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            msg = f"{self.path} cannot be written ({one_line(error)}); free space, or name another --output folder"
            raise DataError(msg) from error


def input_state(paths: Sequence[Path]) -> str:
    """A digest that changes with an input: paths, sizes and times of change of its files, not their contents.

    Args:
        paths: an image, with the voxels beside it where it is a header only, or a folder of one DICOM series; or the
            files of its channels.
    """
    state = []
    with contextlib.suppress(OSError):  # reading the image will say what is wrong with it
        for file in (file for path in paths for file in _files_of(path)):
            facts = file.stat()
            state.append([os.path.abspath(file), facts.st_size, facts.st_mtime_ns])
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.iterdir())
    if path.suffix.lower() in _DETACHED_HEADERS:
        return sorted(file for file in path.parent.iterdir() if file.name.startswith(f"{path.stem}."))
    return [path]


@contextlib.contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    """Hold the file against other processes; where it cannot be locked, go on without."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    # Closing the file, or the end of the process, lets go of it.
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)
    yield
