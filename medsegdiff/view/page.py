"""A page about one case that opens in a browser without any network: slices to scroll through, under overlays."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.notice import RESEARCH_ONLY
from medsegdiff.view.key_slices import amount
from medsegdiff.view.niivue import niivue_licence, niivue_module
from medsegdiff.view.reduction import reduced
from medsegdiff.view.shown_case import ShownCase, as_nifti

_LABEL_INTENT = 1002  # NIfTI's code for a label map
_LEVELS = 4095  # of an image of fractions
_WHOLE = np.iinfo(np.int16)


def case_page(case: ShownCase, picture: bytes) -> str:
    """The page as HTML.

    Args:
        case: what to show; large volumes are shown at fewer voxels, which the page says.
        picture: a PNG of its key slices.

    Raises:
        SpecError: the viewer is not installed, see `niivue_module`.
    """
    import jinja2

    smaller, factors = reduced(case)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medsegdiff.view"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("case.html.j2").render(
        case=case,
        notice=RESEARCH_ONLY,
        amounts=[amount(one) for one in case.classes],
        factors=factors if max(factors) > 1 else None,
        shape=smaller.label.shape,
        niivue=niivue_module(),
        licence=niivue_licence(),
        picture=_base64(picture),
        view=_view(smaller),
    )


def _view(case: ShownCase) -> dict[str, Any]:
    """What the script of the page needs."""
    label = as_nifti(case.label, case.affine)
    label.header.set_intent(_LABEL_INTENT)
    view: dict[str, Any] = {
        "isPicture": case.is_picture,
        "channels": [
            {"name": name, "data": _packed(_stored(array, case.affine))} for name, array in case.channels.items()
        ],
        "label": _packed(label),
        "classes": [{"name": one.name, "rgb": one.rgb} for one in case.classes],
        "uncertainty": None,
        "start": _start(case.label),
    }
    if case.uncertainty is not None:
        levels = np.rint(np.clip(case.uncertainty, 0, 1) * 255).astype(np.uint8)
        view["uncertainty"] = _packed(as_nifti(levels, case.affine, slope=1 / 255))
    return view


def _stored(array: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """A channel in 16 bits: whole numbers as they are where they fit, else as so many levels between its ends."""
    if array.dtype == np.uint8:
        return as_nifti(array, affine)
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind in "biu" and low >= _WHOLE.min and high <= _WHOLE.max:
        return as_nifti(array.astype(np.int16), affine)
    slope = (high - low) / _LEVELS or 1.0
    image = as_nifti(np.rint((array - low) / slope).astype(np.int16), affine)
    image.header.set_slope_inter(slope, low)
    return image


def _start(label: NDArray[Any]) -> list[int]:
    """The voxel to begin at: one of the foreground in the slice that has most of it, else the middle."""
    counts = np.count_nonzero(label, axis=(0, 1))
    if not counts.any():
        return [size // 2 for size in label.shape]
    z = int(np.argmax(counts))
    places = np.argwhere(label[..., z])
    x, y = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
    return [int(x), int(y), z]


def _packed(image: Any) -> str:
    return _base64(gzip.compress(image.to_bytes(), 6, mtime=0))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
