"""Whether a network knows when it is wrong: calibration, sparsification, and distance between sets of segmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.utils.type_conversion import convert_to_numpy
from numpy.typing import NDArray

from medsegdiff.errors import DataError, SpecError

BINS = 15

Array = np.ndarray | torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ReliabilityBins:
    """How often predictions of a confidence are right; bins of several cases add up with `+`.

    Attributes:
        count: number of voxels in each of the B bins, which divide [0, 1] into equal parts.
        confidence_sum: sum of the confidences of these voxels.
        correct: number of these voxels whose predicted class is the true one.
    """

    count: NDArray[np.int64]
    confidence_sum: NDArray[np.float64]
    correct: NDArray[np.int64]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Limits of the bins (B + 1,); a confidence on a limit belongs to the bin below."""
        return np.linspace(0, 1, len(self.count) + 1)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Mean confidence in each bin (B,), NaN where it is empty."""
        return _ratio(self.confidence_sum, self.count)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right predictions in each bin (B,), NaN where it is empty."""
        return _ratio(self.correct, self.count)

    @property
    def expected_calibration_error(self) -> float:
        """Mean over voxels of |accuracy − confidence| of their bins; NaN without voxels."""
        total = int(self.count.sum())
        # Both sums hold the count as a factor already.
        return float(np.abs(self.correct - self.confidence_sum).sum() / total) if total else math.nan

    def __add__(self, other: ReliabilityBins) -> ReliabilityBins:
        if len(self.count) != len(other.count):
            msg = f"got {len(self.count)} and {len(other.count)} bins; only equal bins add up: choose one number"
            raise SpecError(msg)
        return ReliabilityBins(
            count=self.count + other.count,
            confidence_sum=self.confidence_sum + other.confidence_sum,
            correct=self.correct + other.correct,
        )


def reliability_bins(
    probabilities: Array, truth: Array, *, bins: int = BINS, foreground_only: bool = False
) -> ReliabilityBins:
    """Sort the voxels of one case by the confidence of their predicted class (Guo et al., ICML 2017).

    Args:
        probabilities: of the K classes (K, *S), in [0, 1] and summing to 1 over the first axis.
        truth: label map (*S), whole numbers 0..K-1, 0 the background.
        bins: number of bins of equal width in [0, 1].
        foreground_only: only voxels whose true or predicted class is not the background. In a medical image nearly all
            voxels are an easy background, whose confident right answers hide the calibration where it matters.

    Raises:
        DataError: shapes do not fit, or values are no probabilities or no labels of these classes.
        SpecError: fewer than one bin.
    """
    if bins < 1:
        msg = f"bins is {bins}; allowed is a whole number from 1"
        raise SpecError(msg)
    p = np.asarray(convert_to_numpy(probabilities))
    labels = np.asarray(convert_to_numpy(truth))
    _check_probabilities(p, labels)
    predicted = p.argmax(axis=0)  # (*S)
    confidence = p.max(axis=0).astype(np.float64)
    right = predicted == labels
    if foreground_only:
        kept = (predicted > 0) | (labels > 0)
        confidence, right = confidence[kept], right[kept]
    confidence, right = confidence.ravel(), right.ravel()  # (N,) each
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return ReliabilityBins(
        count=np.bincount(place, minlength=bins),
        confidence_sum=np.bincount(place, weights=confidence, minlength=bins).astype(np.float64),
        correct=np.bincount(place[right], minlength=bins),
    )


def expected_calibration_error(
    probabilities: Array, truth: Array, *, bins: int = BINS, foreground_only: bool = False
) -> float:
    """The expected calibration error of one case; arguments and errors as of `reliability_bins`.

    Returns:
        In [0, 1]; NaN where no voxel is looked at.
    """
    return reliability_bins(probabilities, truth, bins=bins, foreground_only=foreground_only).expected_calibration_error


@dataclass(frozen=True, kw_only=True)
class SparsificationCurve:
    """Error of what is left when the most uncertain voxels go first, relative to the error of all voxels.

    Attributes:
        removed: share of the voxels that are gone (P,), from 0 to just below 1.
        error: relative error of the others (P,), 1 at first.
        oracle: the same where the wrong voxels go first (P,).
        area: between both curves, from their values after every single voxel.
    """

    removed: NDArray[np.float64]
    error: NDArray[np.float64]
    oracle: NDArray[np.float64]
    area: float


def sparsification_curve(uncertainty: Array, wrong: Array, *, points: int = 50) -> SparsificationCurve:
    """Sort voxels by uncertainty and look at the error of those that are left (Ilg et al., ECCV 2018, section 5).

    Voxels of equal uncertainty go in random order: what is given is the mean over all orders. For a region alone, such
    as the foreground, give the voxels of that region.

    Args:
        uncertainty: any finite numbers (*S), larger where less certain.
        wrong: whether the prediction is wrong (*S).
        points: number of places of the returned curves; the area does not depend on it.

    Returns:
        All values NaN where no voxel is wrong, for there is nothing to find.

    Raises:
        DataError: shapes differ, or the uncertainty is not finite.
        SpecError: fewer than one point.
    """
    if points < 1:
        msg = f"points is {points}; allowed is a whole number from 1"
        raise SpecError(msg)
    u = np.asarray(convert_to_numpy(uncertainty)).ravel()  # (N,)
    bad = np.asarray(convert_to_numpy(wrong)).astype(bool).ravel()
    if np.shape(uncertainty) != np.shape(wrong) or not np.isfinite(u).all():
        msg = (
            f"got uncertainty of shape {tuple(np.shape(uncertainty))} and errors of shape {tuple(np.shape(wrong))}; "
            "give finite numbers on one grid"
        )
        raise DataError(msg)
    removed = np.arange(points) / points
    n, n_wrong = len(u), int(bad.sum())
    if not n_wrong:
        nothing = np.full(points, math.nan)
        return SparsificationCurve(removed=removed, error=nothing, oracle=nothing, area=math.nan)
    _, group, size = np.unique(-u, return_inverse=True, return_counts=True)
    gone = np.concatenate([[0], np.cumsum(size)])
    found = np.concatenate([[0], np.cumsum(np.bincount(group, weights=bad))])
    k = np.arange(n)
    left = n - k
    error = (n_wrong - np.interp(k, gone, found)) / left * (n / n_wrong)
    oracle = np.maximum(n_wrong - k, 0) / left * (n / n_wrong)
    shown = np.minimum((removed * n).astype(int), n - 1)
    return SparsificationCurve(
        removed=removed, error=error[shown], oracle=oracle[shown], area=float((error - oracle).mean())
    )


def sparsification_error(uncertainty: Array, wrong: Array) -> float:
    """Area under the sparsification error curve (AUSE); arguments and errors as of `sparsification_curve`.

    Returns:
        0 where the uncertainty ranks every wrong voxel above every right one; NaN where no voxel is wrong.
    """
    return sparsification_curve(uncertainty, wrong, points=1).area


def generalised_energy_distance(
    draws: Sequence[Array], truths: Sequence[Array], *, distance: Literal["iou", "dice"] = "iou"
) -> float:
    """Squared distance between the segmentations a network draws and those of several raters (Kohl et al. 2018, eq. 6).

    2 E d(S, Y) − E d(S, S') − E d(Y, Y') over all pairs, a map with itself included. d is 1 − IoU or 1 − Dice, the mean
    over the foreground classes that any of the maps holds; of two maps that both lack a class it is 0.

    Args:
        draws: label maps (*S) of the network, at least one.
        truths: label maps (*S) of the raters, at least one.
        distance: "iou" or "dice".

    Returns:
        From 0, where both sets are distributed alike, to 2; NaN where no map holds any foreground.

    Raises:
        DataError: no map, or maps of different shapes.
        SpecError: another distance.
    """
    if distance not in ("iou", "dice"):
        msg = f"distance is {distance!r}; use 'iou' or 'dice'"
        raise SpecError(msg)
    maps = [np.asarray(convert_to_numpy(one)) for one in (*draws, *truths)]
    shapes = {one.shape for one in maps}
    if not len(draws) or not len(truths) or len(shapes) != 1:
        msg = (
            f"got {len(draws)} draws and {len(truths)} truths of shapes {sorted(shapes)}; give at least one of each, "
            "all on one grid"
        )
        raise DataError(msg)
    flat = np.stack([one.ravel() for one in maps])  # (n + m, N)
    labels = np.unique(flat)
    labels = labels[labels != 0]
    if not len(labels):
        return math.nan
    d = np.mean([_distances(flat == label, distance) for label in labels], axis=0)  # (n + m, n + m)
    s, y = slice(None, len(draws)), slice(len(draws), None)
    return float(2 * d[s, y].mean() - d[s, s].mean() - d[y, y].mean())


def _distances(masks: NDArray[np.bool_], distance: str) -> NDArray[np.float64]:
    """Distances (M, M) of masks (M, N)."""
    # As float64, which counts voxels exactly and multiplies matrices fast.
    numbers = masks.astype(np.float64)
    both = numbers @ numbers.T
    size = np.diag(both)
    total = size[:, None] + size[None, :]
    overlap, whole = (both, total - both) if distance == "iou" else (2 * both, total)
    return np.where(whole > 0, 1 - overlap / np.maximum(whole, 1), 0.0)


def _ratio(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), math.nan), where=whole > 0)


def _check_probabilities(p: NDArray, truth: NDArray) -> None:
    if p.ndim < 2 or p.shape[1:] != truth.shape or p.shape[0] < 2:
        msg = f"got probabilities of shape {p.shape} and truth of shape {truth.shape}; give (K, *S), K >= 2, and (*S)"
        raise DataError(msg)
    if p.size and not (np.isfinite(p).all() and p.min() >= -1e-3 and np.abs(p.sum(axis=0) - 1).max() <= 1e-2):
        msg = "the probabilities are negative or do not sum to 1 over the first axis; give those after the softmax"
        raise DataError(msg)
    if truth.size and (truth.min() < 0 or truth.max() >= p.shape[0]):
        msg = f"the truth holds labels {truth.min():g} to {truth.max():g}; allowed are 0 to {p.shape[0] - 1}"
        raise DataError(msg)
