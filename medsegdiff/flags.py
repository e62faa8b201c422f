"""Yes and no as they are typed on a command line."""

from __future__ import annotations

from medsegdiff.errors import SpecError


def as_bool(value: bool | str, name: str = "the option") -> bool:
    """What a yes-or-no option means: the command line hands `true` and `false` over as words, and both count as true.

    Args:
        value: true or false, or one of these words, large or small.
        name: of the option, for the message.

    Raises:
        SpecError: it is neither.
    """
    word = str(value).lower()
    if word not in ("true", "false"):
        msg = f"{name} is {value!r}; use true or false"
        raise SpecError(msg)
    return word == "true"
