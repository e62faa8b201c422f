"""How much the draws of a case contradict each other."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from medsegdiff.apps.label.bundles import ServedBundle
from medsegdiff.apps.label.infer_tasks import DRAWS_FOR_UNCERTAINTY
from medsegdiff.apps.label.options import SamplingOptions
from medsegdiff.apps.label.predictors import Predictors
from medsegdiff.errors import DataError, MedSegDiffError, SpecError, one_line

if TYPE_CHECKING:
    from medsegdiff.inferers.predictor import CasePrediction

logger = logging.getLogger(__name__)

SCORES = "disagreement"
"""Key of an image's info under which the scores of the bundles are kept."""
ALIKE = 0.001
"""Scores that differ by less say that draws agree as well in one case as in the other."""


class Disagreement(ScoringMethod):
    """Scores cases without a final label by the disagreement between draws, see `disagreement`.

    A score is kept in the info of the image with what it was made by, and not made again while weights, steps, draws
    and seed stay. A case that the bundle cannot segment is kept with the reason, and without a score.

    Args:
        bundle: whose network draws.
        predictors: the networks of the server.
    """

    def __init__(self, bundle: ServedBundle, predictors: Predictors) -> None:
        super().__init__(f"Disagreement between draws, 0 (none) to 1: {bundle.description}")
        self.bundle = bundle
        self.predictors = predictors

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all cases without a final label.

        Returns:
            How many were "scored", how many were "kept" from before, how many are "unfit".

        Raises:
            SpecError: an option out of range, or fewer than two draws.
        """
        options = self.check(request)
        made_by = self._made_by(options)
        store: Any = datastore  # one of ours, which knows which files belong together
        counts = {"scored": 0, "kept": 0, "unfit": 0}
        for image_id in sorted(datastore.get_unlabeled_images()):
            known = datastore.get_image_info(image_id).get(SCORES, {})
            if known.get(self.bundle.name, {}).get("made_by") == made_by:
                counts["kept"] += 1
                continue
            try:
                files = store.files_of(image_id, self.bundle)
                segmented = self.predictors.segment(self.bundle, files, options)
                found = segmented.prediction
                entry = {"score": disagreement(found), "entropy": doubt(found), "made_by": made_by}
                counts["scored"] += 1
            except MedSegDiffError as error:
                entry = {"score": None, "error": one_line(error), "made_by": made_by}
                counts["unfit"] += 1
            # Of a series that it cannot read, a DICOM store keeps nothing but that.
            with contextlib.suppress(*[DataError] if entry["score"] is None else []):
                datastore.update_image_info(image_id, {SCORES: {**known, self.bundle.name: entry}})
        return counts

    def check(self, request: Mapping[str, Any]) -> SamplingOptions:
        """How a request wants cases sampled.

        Raises:
            SpecError: an option out of range, or fewer than two draws.
        """
        options = SamplingOptions.read(
            request, steps=self.bundle.spec.steps, draws=max(self.bundle.spec.draws, DRAWS_FOR_UNCERTAINTY)
        )
        if options.draws < 2:
            msg = f"got draws={options.draws}; draws contradict each other from 2 on: give 2 or more"
            raise SpecError(msg)
        self.bundle.weights.path(options.weights)
        return options

    def _made_by(self, options: SamplingOptions) -> dict[str, Any]:
        file = self.bundle.weights.path(options.weights)
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
        return {"weights": digest, "steps": options.steps, "draws": options.draws, "seed": options.seed}


def disagreement(prediction: CasePrediction) -> float:
    """One minus the Dice between two draws, from the moments over all draws.

    The sum over voxels of half the summed variances of the classes, divided by the expected number of foreground
    voxels. Of label maps, the unbiased variance of a class is half the share of pairs of draws that differ in it: the
    sum becomes half the mean number of voxels in which two draws differ, and with one foreground class the quotient
    |A Δ B| / (|A| + |B|), sizes and differences averaged over pairs. Voxels that draws give to different foreground
    classes count as different too. 0 where no draw finds anything.

    Raises:
        SpecError: a single draw, or a network that does not draw.
    """
    if prediction.variance is None:
        msg = "got a single segmentation, which contradicts nothing; use a bundle that samples, with 2 draws or more"
        raise SpecError(msg)
    foreground = _expected_foreground(prediction)
    return min(1.0, float(prediction.variance.sum()) / foreground) if foreground > 0 else 0.0


def doubt(prediction: CasePrediction) -> float:
    """The entropy of the mean over draws, summed over voxels, by the expected number of voxels of the foreground."""
    foreground = _expected_foreground(prediction)
    return float(prediction.entropy.sum()) / foreground if foreground > 0 and prediction.entropy is not None else 0.0


def best_scored(images: list[str], datastore: Datastore, bundle: str) -> tuple[str | None, float | None, list[str]]:
    """The image that a bundle is most uncertain of, its score, and the images that it has not scored yet.

    Some networks draw nearly the same each time. Where scores differ by less than `ALIKE`, entropy decides.
    """
    best: tuple[tuple[int, float], str, float] | None = None
    missing = []
    for image_id in sorted(images):
        entry = datastore.get_image_info(image_id).get(SCORES, {}).get(bundle)
        if entry is None:
            missing.append(image_id)
        elif entry["score"] is not None:
            rank = round(entry["score"] / ALIKE), entry.get("entropy", 0.0)
            if best is None or rank > best[0]:
                best = rank, image_id, entry["score"]
    return (None, None, missing) if best is None else (best[1], best[2], missing)


def _expected_foreground(prediction: CasePrediction) -> float:
    return sum(float(prediction.probability(k).sum()) for k in range(1, len(prediction.classes)))


ScoreLater = Callable[[str], object]
"""Has the scoring method of a name run in the background."""
