"""Files of a run, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from medsegdiff.errors import DataError, one_line


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str], *, advice: str) -> Iterator[Path]:
    """A temporary name in the folder of `path` that becomes `path` when the block ends well.

    A process that is killed inside the block leaves the previous file as it was, and so does a disk that is full. The
    folder is made where it does not exist.

    Args:
        path: the file to write; one that is there is replaced.
        advice: what to do where it cannot be written, for the message.

    Raises:
        DataError: it cannot be written, such as for want of space or permission.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save turns the OSError of a full disk into a RuntimeError of its own words.
        full = isinstance(error, RuntimeError) and "unexpected pos" in str(error)
        reason = "the disk is full, or its quota used up" if full else one_line(error)
        msg = f"{path} cannot be written ({reason}); {advice}"
        raise DataError(msg) from error
    finally:
        # Fails like the writing itself where the folder is none.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left of `written_whole` in a folder that no other process writes to."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the file on the disk before it takes the name: after a power cut a renamed file may else be empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
