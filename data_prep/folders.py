"""What every converter needs of the file system: what is in it, archives out, folders that appear at once."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from medsegdiff.errors import DataError, one_line
from medsegdiff.files import temporary_name

# RuntimeError: zipfile's word for encryption and for methods that it does not know.
_ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)
# Where macOS puts what is no data into an archive.
_IGNORED_FOLDERS = ("__MACOSX",)


def files_below(root: Path) -> list[Path]:
    """All files below a folder, in folders that are links too, in the order of their paths; hidden ones are no data."""
    files = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in _IGNORED_FOLDERS]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(files)


def extract_archive(archive: Path, folder: Path) -> None:
    """Extract a tar (compressed or not) or zip archive into `folder`; nothing can land outside of it.

    Raises:
        DataError: no archive, a damaged one, or one with members that point out of the folder.
    """
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _extract_tar(tar, folder)
            return
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)  # drops absolute and parent paths by itself
            return
    except _ARCHIVE_ERRORS as error:
        msg = f"{archive}: cannot be extracted ({one_line(error)}); allowed are undamaged archives; download it again"
        raise DataError(msg) from error
    msg = f"{archive}: got a file that is no archive; allowed are tar, tar.gz and zip, or a folder; check the path"
    raise DataError(msg)


def _extract_tar(tar: tarfile.TarFile, folder: Path) -> None:
    """Extract what lands inside of the folder, and refuse the rest.

    Raises:
        TarError: a member would land outside, or is neither file nor folder nor link.
    """
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
        return
    # Before Python 3.10.12 and 3.11.4, such as that of Debian 12; no data set needs links.
    root = folder.resolve()
    for member in tar:
        if not (member.isfile() or member.isdir()) or not (root / member.name).resolve().is_relative_to(root):
            msg = f"{member.name!r} would be extracted outside of the folder, or is no file"
            raise tarfile.TarError(msg)
        tar.extract(member, root, set_attrs=False)


@contextmanager
def appearing_at_once(output: Path) -> Iterator[Path]:
    """Give a hidden folder beside `output` that takes its name at the end; on any error nothing of it remains.

    Raises:
        DataError: `output` is a file or holds files, or its place cannot be written.
    """
    target = output.absolute()
    draft = temporary_name(target)
    missing_parents: list[Path] = []
    try:
        require_new(output)
        missing_parents = [parent for parent in target.parents if not parent.exists()]
        draft.mkdir(parents=True)
        yield draft
        take_place(draft, target)
    except OSError as error:
        raise DataError(cannot_be_made(output, error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        remove_empty(missing_parents)


def require_new(output: Path) -> None:
    """Make sure that nothing would be written over.

    Raises:
        DataError: `output` is a file or a folder that holds files.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        msg = f"{output}: got an output that is a file or holds files; allowed is a new or empty folder; give one"
        raise DataError(msg)


def take_place(draft: Path, target: Path) -> None:
    """Give a finished folder its name."""
    if target.exists():
        target.rmdir()
    os.replace(draft, target)


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, innermost first, in which nothing came to be."""
    for folder in folders:
        with suppress(OSError):  # holds something, or was never made
            folder.rmdir()


def cannot_be_made(output: Path, error: OSError) -> str:
    """The message for an output that the system refuses, be it for want of space or of permission."""
    return (
        f"{output}: cannot be made ({error.strerror or one_line(error)}: {error.filename}); needed are a readable "
        "source and a place with write permission and room; choose another output"
    )
