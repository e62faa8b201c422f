"""Outputs that take long: an interrupted conversion that is run again goes on where it stopped."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from data_prep.folders import cannot_be_made, remove_empty, require_new, take_place
from medsegdiff.errors import DataError, MedSegDiffError

logger = logging.getLogger(__name__)

PROGRESS_FILE = ".progress.jsonl"
GO_ON = "what is done is kept, and the same command goes on from there"

Result = dict[str, Any]


class Unfinished(DataError):
    """A conversion stopped at something that the user can mend; what is done is kept for the next run."""


class Draft:
    """A folder in the making, and the steps of it that are done.

    Steps are written down one a line as they are finished, so that a process that is killed loses none of them; a
    line that it left half written is dropped.

    Args:
        folder: an existing folder; where its notes are of another purpose it is emptied.
        purpose: what is made, as JSON can hold it.
    """

    def __init__(self, folder: Path, purpose: Mapping[str, Any]) -> None:
        self.folder = folder
        self._steps: dict[str, tuple[Any, Result]] = {}
        self._file = self._open(_as_json(purpose))

    @property
    def has_results(self) -> bool:
        """Whether any step is finished."""
        return bool(self._steps)

    def result_of(self, step: str, key: object) -> Result | None:
        """What was recorded for a step, if it was for the same key.

        Args:
            step: its name.
            key: what its result depends on, as JSON can hold it, such as sizes and times of files.
        """
        recorded, result = self._steps.get(step, (None, None))
        return result if recorded == _as_json(key) else None

    def record(self, step: str, key: object, result: Result) -> None:
        """Write down that a step is finished; what it made must be in place."""
        self._steps[step] = (_as_json(key), result)
        self._file.write(_line({"step": step, "key": key, "result": result}))
        self._file.flush()

    def close(self) -> None:
        """End the notes."""
        self._file.close()

    def _open(self, purpose: Any) -> BinaryIO:
        """Read the notes and open them to be continued."""
        path = self.folder / PROGRESS_FILE
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if not lines or _parsed(lines[0]) != {"purpose": purpose}:
            if lines:
                logger.info("%s was begun from another source or with other options; starting anew", self.folder)
            for entry in self.folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            file = path.open("ab")
            file.write(_line({"purpose": purpose}))
            file.flush()
            return file
        length = len(lines[0])
        for line in lines[1:]:
            entry = _parsed(line)
            if entry is None:
                break
            self._steps[entry["step"]] = (entry["key"], entry["result"])
            length += len(line)
        file = path.open("ab")
        file.truncate(length)
        return file


@contextmanager
def resumable(output: Path, *, purpose: Mapping[str, Any]) -> Iterator[Draft]:
    """Give a hidden folder beside `output` that takes its name at the end.

    An interruption (Ctrl-C, a killed process, a full disk, `Unfinished`) leaves the hidden folder to the next run with
    the same output and purpose. After any other `MedSegDiffError`, or where no step is finished, nothing remains.

    Args:
        output: a folder that is empty or does not exist; it appears complete or not at all.
        purpose: what is made of what, as JSON can hold it.

    Raises:
        DataError: `output` is a file or holds files, another process is making it, or its place cannot be written.
    """
    target = output.absolute()
    folder = target.with_name(f".{target.name}.draft")
    missing_parents: list[Path] = []
    try:
        require_new(output)
        missing_parents = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target), _kept_to_go_on(folder, purpose) as draft:
            yield draft
            draft.close()
            take_place(folder, target)
            (target / PROGRESS_FILE).unlink()
    except OSError as error:
        msg = cannot_be_made(output, error)
        if folder.exists():
            msg = f"{msg}; {GO_ON}"
        raise DataError(msg) from error
    finally:
        remove_empty(missing_parents)


@contextmanager
def _kept_to_go_on(folder: Path, purpose: Mapping[str, Any]) -> Iterator[Draft]:
    """A draft that is removed on errors after which there is nothing to go on with."""
    draft = None
    try:
        folder.mkdir(exist_ok=True)
        draft = Draft(folder, purpose)
        yield draft
    except BaseException as error:
        if draft is not None:
            draft.close()
        for_good = isinstance(error, MedSegDiffError) and not isinstance(error, Unfinished)
        if for_good or draft is None or not draft.has_results:
            shutil.rmtree(folder, ignore_errors=True)
        elif not isinstance(error, Exception):
            logger.warning("%s: %s", folder, GO_ON)
        raise


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Only one process at a time may make an output; the lock of a process that was killed is free."""
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        msg = f"{target}: another process is making it; allowed is one at a time; wait for it or name another output"
        raise DataError(msg) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows lets nobody remove it before it is released, and then does so by itself
            path.unlink()
        lock.release()


def _as_json(value: object) -> Any:
    """As it would be read back: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))


def _line(entry: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(entry)}\n".encode()


def _parsed(line: bytes) -> Any:
    """The entry of a line, or None where it was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None
