"""What a viewer asks for beside the image, read from the options of its request."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medsegdiff.apps.label.weights import LATEST
from medsegdiff.errors import SpecError

MOST_DRAWS = 64
MOST_STEPS = 1000
LARGEST_SEED = 2**31 - 1
EXTENSIONS = (".nrrd", ".nii.gz", ".nii")
DICOM_SUFFIX = ".dcm"
"""That of a DICOM segmentation, which results from a series in a DICOM store can be had as."""


@dataclass(frozen=True)
class SamplingOptions:
    """How to sample.

    Attributes:
        steps: number of visited time steps.
        draws: how many segmentations to average.
        seed: of the sampling noise.
        weights: name of the weights, see `KeptWeights`.
    """

    steps: int
    draws: int
    seed: int = 0
    weights: str = LATEST

    @classmethod
    def read(cls, request: Mapping[str, Any], *, steps: int, draws: int) -> SamplingOptions:
        """Read them from a request, whose other entries are the viewer's own.

        Args:
            request: options by name; numbers may come as text, and a choice as the list that it was to be made from.
            steps: where the request has none.
            draws: likewise.

        Raises:
            SpecError: an option out of range.
        """
        return cls(
            steps=read_number(request, "steps", steps, most=MOST_STEPS),
            draws=read_number(request, "draws", draws, most=MOST_DRAWS),
            seed=read_number(request, "seed", 0, least=0, most=LARGEST_SEED),
            weights=str(_first(request.get("weights")) or LATEST),
        )


def read_number(request: Mapping[str, Any], name: str, default: int, *, least: int = 1, most: int) -> int:
    """A whole number of a request.

    Raises:
        SpecError: it is none, or not from `least` to `most`.
    """
    given = request.get(name)
    if given is None or given == "":
        return default
    try:
        number = int(str(given).strip()) if not isinstance(given, float) or not given.is_integer() else int(given)
    except ValueError:
        number = least - 1
    if isinstance(given, bool) or not least <= number <= most:
        msg = f"got {name}={reprlib.repr(given)}; allowed are whole numbers from {least} to {most}"
        raise SpecError(msg)
    return number


def read_fraction(request: Mapping[str, Any], name: str, default: float, *, most: float = 1.0) -> float:
    """A positive number of a request, up to `most`.

    Raises:
        SpecError: it is none.
    """
    given = request.get(name)
    if given is None or given == "":
        return default
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(given, bool) or not 0 < number <= most:
        msg = f"got {name}={reprlib.repr(given)}; allowed are numbers above 0 up to {most:g}"
        raise SpecError(msg)
    return number


def read_choice(request: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str:
    """One of several words of a request; the first where it has none.

    Raises:
        SpecError: it is none of them.
    """
    given = _first(request.get(name))
    if given is None or given == "":
        return allowed[0]
    if given not in allowed:
        msg = f"got {name}={reprlib.repr(given)}; use one of {', '.join(allowed)}"
        raise SpecError(msg)
    return str(given)


def _first(value: Any) -> Any:
    """A choice that a viewer left as it was comes back as the list that it was to be made from."""
    if isinstance(value, (list, tuple)):
        return value[0] if value else None
    return value
