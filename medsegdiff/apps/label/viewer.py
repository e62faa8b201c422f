"""The OHIF viewer that comes with MONAI Label."""

from __future__ import annotations

from pathlib import Path

import monailabel
from fastapi.responses import FileResponse

_OHIF = Path(monailabel.__file__).resolve().parent / "endpoints" / "static" / "ohif"


def viewer_file(path: str) -> FileResponse:
    """A file of the viewer, or its page for all addresses that it makes up itself."""
    file = (_OHIF / path).resolve()
    if not file.is_file() or not file.is_relative_to(_OHIF):
        file = _OHIF / "index.html"
    return FileResponse(file)
