"""How much the uncertainty of one case is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

from medsegdiff.metrics.calibration import (
    ReliabilityBins,
    generalised_energy_distance,
    reliability_bins,
    sparsification_error,
)


@dataclass(frozen=True, eq=False)
class CaseUncertainty:
    """Calibration of one case, on the voxels that truth or prediction holds to be foreground.

    Attributes:
        bins: of the reliability diagram, which add up over cases.
        ause: area under the sparsification error curve, by the entropy of the probabilities.
        ged: squared generalised energy distance between the draws and the truth; None for fewer than two draws. With
            one rater it is the mean distance of the draws to the truth, less half of their distance to each other.
    """

    bins: ReliabilityBins
    ause: float
    ged: float | None

    def row(self) -> dict[str, Any]:
        """As the table has it."""
        return {"ece": self.bins.expected_calibration_error, "ause": self.ause, "ged": self.ged}


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
        ause=sparsification_error(entropy_map(probabilities)[region], (predicted != truth)[region]),
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
