"""The viewer NiiVue, as JavaScript to be put into a page.

It comes with the package ipyniivue, whose widget carries the whole library as text for the pages that it saves itself.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re
from pathlib import Path
from urllib.parse import unquote

from medsegdiff.errors import SpecError

PACKAGE = "ipyniivue"
_WIDGET = Path("static") / "widget.js"
_EXPORTS = re.compile(r"export\s*\{[^}]*\bNVImage\b[^}]*\bNiivue\b[^}]*\}")
# A literal in the alphabet of JavaScript's encodeURIComponent, longer than any but a library.
_ENCODED = re.compile(r'"((?:[\w.!~*\'()-]|%[0-9A-F]{2}){200000,})"', re.ASCII)


@functools.cache
def niivue_module() -> str:
    """NiiVue as the text of an ES module that defines `Niivue` and `NVImage`, safe within a `<script>`.

    Raises:
        SpecError: ipyniivue is not installed, or has no such text.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        msg = "pages need ipyniivue, which is not installed; run pip install 'medsegdiff[pages]', or make none"
        raise SpecError(msg)
    for found in _ENCODED.finditer((Path(folders[0]) / _WIDGET).read_text(encoding="utf-8")):
        text = unquote(found[1])
        if _EXPORTS.search(text):
            return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    version = importlib.metadata.version(PACKAGE)
    msg = f"got ipyniivue {version}, in which NiiVue is not found; run pip install ipyniivue==2.4.4, or make no page"
    raise SpecError(msg)


def niivue_licence() -> str:
    """The licence under which NiiVue is passed on with a page."""
    files = importlib.metadata.files(PACKAGE) or []
    texts = [file.read_text() for file in files if file.name == "LICENSE"]
    return texts[0] if texts else "NiiVue: BSD 2-Clause License"
