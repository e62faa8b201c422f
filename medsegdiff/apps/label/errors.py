"""What goes wrong with a request, and the status that it is answered with."""

from __future__ import annotations

from medsegdiff.errors import DataError, MedSegDiffError, SpecError, WeightsError

BAD_REQUEST, NOT_FOUND, UNPROCESSABLE, TOO_MANY_REQUESTS = 400, 404, 422, 429
SERVER_ERROR, BAD_GATEWAY = 500, 502


class UnknownNameError(MedSegDiffError):
    """A model, strategy, method, image or label that does not exist."""


def unknown(kind: str, name: object, allowed: list[str]) -> UnknownNameError:
    """The error of a name that is none of those allowed."""
    return UnknownNameError(f"{kind} {name!r} does not exist; use one of {', '.join(allowed) or 'none: there is none'}")


def status_of(error: MedSegDiffError) -> int:
    """The HTTP status that a user error is answered with."""
    if isinstance(error, UnknownNameError):
        return NOT_FOUND
    if isinstance(error, DataError):
        return UNPROCESSABLE
    if isinstance(error, SpecError):
        return BAD_REQUEST
    return SERVER_ERROR if isinstance(error, WeightsError) else BAD_REQUEST
