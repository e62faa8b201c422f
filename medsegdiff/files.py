"""Files of a run, written whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import secrets
import socket
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
    partial = temporary_name(path)
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


def temporary_name(path: Path) -> Path:
    """A hidden name beside a file or folder that no other process or thread takes, on whatever host.

    Processes of two containers over one file system have the same number easily, and the same host's name at times.
    """
    mark = _mark(socket.gethostname(), os.getpid())
    return path.with_name(f".{path.name}.{mark}-{secrets.token_hex(4)}")


def remove_unfinished_of(path: Path, *, host: str, process: int | str) -> None:
    """Remove what one process, which has ended, left of `written_whole` for a file."""
    mark = f".{glob.escape(path.name)}."
    # The number alone is what names of an earlier version end with.
    for pattern in (f"{mark}{_mark(host, process)}-*", f"{mark}{glob.escape(str(process))}"):
        for partial in path.parent.glob(pattern):
            with contextlib.suppress(OSError):
                partial.unlink()


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
        if re.fullmatch(r"\..+\.\d+(-[0-9a-f]{8}-[0-9a-f]{8})?", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _mark(host: str, process: int | str) -> str:
    """A process of a host; of the host a digest, since names of files have an end."""
    return f"{process}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def _flush(path: Path) -> None:
    """Have the file on the disk before it takes the name: after a power cut a renamed file may else be empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
