"""How much the uncertainty of one case is worth."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

from medsegdiff.metrics.calibration import (
    ReliabilityBins,
    SparsificationCurve,
    generalised_energy_distance,
    reliability_bins,
    sparsification_curve,
)

POINTS = 20
"""Places of a sparsification curve."""


@dataclass(frozen=True, eq=False)
class CaseUncertainty:
    """Calibration of one case, on the voxels that truth or prediction holds to be foreground.

    Attributes:
        bins: of the reliability diagram, which add up over cases.
        curve: of sparsification, by the entropy of the probabilities; NaN where nothing is wrong.
        ged: squared generalised energy distance between the draws and the truth; None for fewer than two draws. With
            one rater it is the mean distance of the draws to the truth, less half of their distance to each other.
    """

    bins: ReliabilityBins
    curve: SparsificationCurve
    ged: float | None

    def row(self) -> dict[str, Any]:
        """As the table has it."""
        return {"ece": self.bins.expected_calibration_error, "ause": self.curve.area, "ged": self.ged}


class PooledUncertainty:
    """The uncertainty of all cases of an evaluation, as the tables have it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._bins: list[ReliabilityBins] = []
        self._curves: list[SparsificationCurve] = []

    def add(self, case: str, found: CaseUncertainty) -> None:
        """Take the next case."""
        self.rows.append({"case": case, **found.row()})
        self._bins.append(found.bins)
        if not math.isnan(found.curve.area):
            self._curves.append(found.curve)

    def calibration(self) -> list[dict[str, Any]]:
        """The bins of all cases together, a row each."""
        if not self._bins:
            return []
        bins = functools.reduce(operator.add, self._bins)
        return _rows(
            bin_low=bins.edges[:-1],
            bin_high=bins.edges[1:],
            count=bins.count,
            confidence=bins.confidence,
            accuracy=bins.accuracy,
        )

    def sparsification(self) -> list[dict[str, Any]]:
        """The mean curve of the cases in which something is wrong, a row for each place."""
        if not self._curves:
            return []
        return _rows(
            removed=self._curves[0].removed,
            error=np.mean([curve.error for curve in self._curves], axis=0),
            oracle=np.mean([curve.oracle for curve in self._curves], axis=0),
        )


def case_uncertainty(
    probabilities: NDArray[np.floating], truth: NDArray[Any], draws: Sequence[NDArray[Any]] = ()
) -> CaseUncertainty:
    """Measure the uncertainty of one case.

    Nearly all of a medical image is an easy background, in which a network is right and sure of it; what is measured is
    the rest.

    Args:
        probabilities: of the K classes (K, *S), on the grid of the truth.
        truth: label map (*S).
        draws: label maps (*S), one a draw.
    """
    probabilities = normalised(probabilities)
    predicted = probabilities.argmax(axis=0)
    region = (predicted > 0) | (truth > 0)
    return CaseUncertainty(
        bins=reliability_bins(probabilities, truth, foreground_only=True),
        curve=sparsification_curve(entropy_map(probabilities)[region], (predicted != truth)[region], points=POINTS),
        ged=generalised_energy_distance(draws, [truth]) if len(draws) > 1 else None,
    )


def entropy_map(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Entropy (*S) of probabilities (K, *S), from 0 (one class is certain) to 1 (all are equal)."""
    return np.asarray(entropy(probabilities, base=len(probabilities), axis=0))


def normalised(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities (K, *S) that sum to one; the background where the preprocessing had cropped the image away."""
    p = np.clip(probabilities.astype(np.float64), 0, None)
    total = p.sum(axis=0)
    p[0] = np.where(total > 0, p[0], 1)
    return p / np.where(total > 0, total, 1)


def _rows(**columns: NDArray[Any]) -> list[dict[str, Any]]:
    return [
        {name: value.item() for name, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]
