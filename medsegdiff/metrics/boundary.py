"""How well the outlines of two masks in the plane agree, in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from medsegdiff.errors import DataError, SpecError

TOLERANCES = (1, 2, 3, 4, 5)


def boundary_f(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], *, tolerances: Sequence[float] = TOLERANCES
) -> float:
    """The boundary F-measure, averaged over tolerances: FBound of SegDiff (Amit et al. 2021, table 2) and DarNet.

    At one tolerance, precision is the share of the prediction's boundary pixels that lie within so many pixels of a
    boundary pixel of the truth (as after a dilation with a disk, Euclidean, the limit included), recall the share of
    the truth's that lie so near the prediction's, and F their harmonic mean, 0 where both are 0 (Perazzi et al., CVPR
    2016, "contour accuracy"). The order of the two axes does not matter; pixels count alike, whatever their spacing.

    A mask without any pixel: NaN where both have none, 0 where one has none. A mask that fills the image has no
    boundary: 1 where both fill it, 0 where one does.

    Args:
        prediction: mask (*S), 2-D.
        truth: mask (*S) of the same shape.
        tolerances: in pixels, each at least 0.

    Returns:
        In [0, 1], or NaN.

    Raises:
        DataError: the masks are not 2-D or their shapes differ.
        SpecError: no tolerance, or one that is negative or not finite.
    """
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        msg = f"got masks of shapes {prediction.shape} and {truth.shape}; give two 2-D masks on one grid"
        raise DataError(msg)
    if not tolerances or not all(math.isfinite(r) and r >= 0 for r in tolerances):
        msg = f"tolerances is {list(tolerances)}; allowed are one or more numbers of pixels from 0"
        raise SpecError(msg)
    if not prediction.any() or not truth.any():
        return 0.0 if prediction.any() or truth.any() else math.nan
    p, t = (np.argwhere(boundary(mask)) for mask in (prediction, truth))  # (N, 2) each
    if not len(p) or not len(t):
        return 0.0 if len(p) or len(t) else 1.0
    there, _ = KDTree(t).query(p)  # (N_p,) pixels from the prediction's boundary to the truth's
    back, _ = KDTree(p).query(t)  # (N_t,)
    scores = [_harmonic(np.mean(there <= r), np.mean(back <= r)) for r in tolerances]
    return float(np.mean(scores))


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The boundary of a mask (X, Y), one pixel wide, as the benchmark DAVIS draws it.

    A pixel belongs to it where its neighbour one further along the first axis, the second, or both differs from it.
    The edge of the image is no boundary.
    """
    padded = np.pad(mask, (0, 1), mode="edge")
    return (mask ^ padded[1:, :-1]) | (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, 1:])


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
