"""What is written down, which never tells whose images they are."""

from __future__ import annotations

import logging
import re
import tempfile
import time
import traceback
from pathlib import Path

DEFECTS = "defects.log"
# What MONAI Label logs below this level names images, series and patients.
_LOUD = ("monailabel", "watchdog", "dicomweb_client", "uvicorn.access")


def quiet() -> None:
    """Have MONAI Label and what it stands on log errors only."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("timeloop").disabled = True  # it sets its level itself


class WithoutNames(logging.Filter):
    """Takes the names of studies out of log records, and leaves of a traceback the places in the code.

    Args:
        folders: where images are; what stands below them is replaced.
    """

    def __init__(self, *folders: str) -> None:
        super().__init__()
        known = sorted({*folders, tempfile.gettempdir()} - {""}, key=len, reverse=True)
        self._paths = re.compile("(?:" + "|".join(re.escape(one.rstrip("/")) for one in known) + r")/[^\s:,;'\"]+")

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; none is dropped."""
        record.msg, record.args = self.clean(record.getMessage()), ()
        if record.exc_info and record.exc_info[1] is not None:
            record.msg += "\n" + frames_of(record.exc_info[1])
        record.exc_info = record.exc_text = None
        return True

    def clean(self, text: str) -> str:
        """The text without paths of studies."""
        return self._paths.sub("[an image]", text)


def frames_of(error: BaseException) -> str:
    """Where in the code an error came from, without its message, which may quote what it was given."""
    return f"{type(error).__name__} at\n" + "".join(traceback.format_tb(error.__traceback__)).rstrip()


def note_defect(error: BaseException, folder: Path) -> Path:
    """Append where an error came from to a file in `folder`; its path."""
    path = folder / DEFECTS
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {frames_of(error)}\n")
    return path
