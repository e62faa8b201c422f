"""Names that come from a client and become parts of paths."""

from __future__ import annotations

import re

from medsegdiff.errors import SpecError

_LONGEST = 200


def check_plain(kind: str, name: object) -> str:
    """A name as it is, once it is known that it stays within the folder that it is looked up in.

    Raises:
        SpecError: it is empty, too long, hidden, or holds a separator of folders or a control character.
    """
    text = str(name)
    if not 0 < len(text) <= _LONGEST or text.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f]", text):
        msg = f"got, as {kind}, what is no plain name; allowed are {_LONGEST} characters, no / or \\, no dot first"
        raise SpecError(msg)
    return text
