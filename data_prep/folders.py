"""What every converter needs of the file system: archives out, and folders that appear complete or not at all."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medsegdiff.errors import DataError, one_line

# RuntimeError: zipfile's word for encryption and for methods that it does not know.
_ARCHIVE_ERRORS = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)


def extract_archive(archive: Path, folder: Path) -> None:
    """Extract a tar (compressed or not) or zip archive into `folder`; nothing can land outside of it.

    Raises:
        DataError: no archive, a damaged one, or one with members that point out of the folder.
    """
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")  # refuses members that would land outside
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


@contextmanager
def appearing_at_once(output: Path) -> Iterator[Path]:
    """Give a hidden folder beside `output` that takes its name at the end; on any error nothing of it remains.

    Raises:
        DataError: `output` is a file or holds files, or its place cannot be written.
    """
    target = output.absolute()
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    missing_parents = []
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            msg = f"{output}: got an output that is a file or holds files; allowed is a new or empty folder; give one"
            raise DataError(msg)
        missing_parents = [parent for parent in target.parents if not parent.exists()]
        draft.mkdir(parents=True)
        yield draft
        if target.exists():
            target.rmdir()
        os.replace(draft, target)
    except OSError as error:
        msg = (
            f"{output}: cannot be made ({error.strerror or one_line(error)}: {error.filename}); needed are a readable "
            "source and a place with write permission and room; choose another output"
        )
        raise DataError(msg) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        for parent in missing_parents:
            with suppress(OSError):  # not empty: the output is there
                parent.rmdir()
