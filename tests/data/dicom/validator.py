"""dicom3tools' validator of DICOM files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

DCIODVFY = shutil.which("dciodvfy")
MISSING = "no dciodvfy: apt-get install dicom3tools"


def dicom_errors(path: Path, *, source: Path | None = None) -> list[str]:
    """What the validator calls an error in a file.

    Args:
        path: the file.
        source: a file of the series that it was made from: what the validator says of that file too, such as of an
            age that is none, is that of whoever wrote it.
    """
    errors = _errors(path)
    inherited = set(_errors(source)) if source is not None else set()
    return [line for line in errors if line not in inherited]


def _errors(path: Path) -> list[str]:
    told = subprocess.run([str(DCIODVFY), "-new", str(path)], capture_output=True, check=False)
    text = (told.stdout + told.stderr).decode(errors="replace")
    assert "Error - Dicom dataset read failed" not in text
    return [line for line in text.splitlines() if line.startswith("Error")]
