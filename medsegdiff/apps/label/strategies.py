"""Which case to label next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from medsegdiff.apps.label.scoring import ScoreLater, best_scored


class MostUncertain(Strategy):
    """Serves the case without a final label that the draws of a bundle contradict each other most about.

    While cases have no score, the best of those that have one is served, or the first by name, and the others are
    scored in the background.

    Args:
        bundle: name of the bundle.
        method: name of the scoring method of the bundle.
        score_later: has that method run in the background.
    """

    def __init__(self, bundle: str, method: str, score_later: ScoreLater) -> None:
        super().__init__(f"The case that the draws of {bundle} contradict each other most about")
        self.bundle = bundle
        self.method = method
        self.score_later = score_later

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The next case, `{"id": …, "weight": its score}`; None where all are labelled."""
        datastore.refresh()  # scores come from another process
        images = datastore.get_unlabeled_images()
        if not images:
            return None
        image_id, score, missing = best_scored(images, datastore, self.bundle)
        if missing:
            self.score_later(self.method)
        return {"id": image_id or (missing or sorted(images))[0], "weight": score, "not_scored": len(missing)}
