"""The OHIF viewer that comes with MONAI Label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import monailabel
from fastapi import Request, Response
from fastapi.responses import FileResponse

from medsegdiff.apps.label.bundles import RGB

_OHIF = Path(monailabel.__file__).resolve().parent / "endpoints" / "static" / "ohif"
_LIST_OF_COLOURS = "const GenericAnatomyColors = ["


class Viewer:
    """Its files, with colours for our labels and the address of this server.

    The panel colours a label by its name: as in a list of its own, else by a sum over the letters, with which
    "posterior" is almost black and all bands of uncertainty look alike. So our labels are put into that list.

    Args:
        colours: of each label.
    """

    def __init__(self, colours: Mapping[str, RGB]) -> None:
        entries = [
            {"label": name.lower(), "value": "#{:02x}{:02x}{:02x}".format(*colour)} for name, colour in colours.items()
        ]
        self._entries = "".join(f"{json.dumps(entry)}, " for entry in entries)

    def file(self, path: str, request: Request) -> Response:
        """A file of the viewer, or its page for all addresses that it makes up itself."""
        file = _file(path)
        if file is None:
            page = FileResponse(_OHIF / "index.html")
            # The panel looks for its server here, else at port 8000; what a user types there it keeps in this place.
            page.set_cookie("MONAILABEL_SERVER_URL", quote(str(request.base_url), safe=""), path="/ohif")
            return page
        script = file.read_text(encoding="utf-8") if file.suffix == ".js" else ""
        if _LIST_OF_COLOURS in script:
            coloured = script.replace(_LIST_OF_COLOURS, _LIST_OF_COLOURS + self._entries, 1)
            return Response(coloured, media_type="text/javascript")
        return FileResponse(file)


def _file(path: str) -> Path | None:
    """The file of the viewer at a path of an address; None where there is none, or where it could be none."""
    try:
        file = (_OHIF / path).resolve()
        return file if file.is_relative_to(_OHIF) and file.is_file() else None
    except (OSError, ValueError):  # a name that is too long, or has a null in it
        return None
