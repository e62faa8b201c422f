"""The networks of the server: loaded once, used by one request at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.apps.label.bundles import ServedBundle
from medsegdiff.apps.label.options import SamplingOptions

if TYPE_CHECKING:
    from medsegdiff.inferers.predictor import BundlePredictor, CasePrediction

_MOST_LOADED = 8


@dataclass(frozen=True, eq=False)
class Segmented:
    """One case, and how it was segmented.

    Attributes:
        prediction: on the grid of the image.
        settings: of the network, for a report.
        weights: the file that was used.
    """

    prediction: CasePrediction
    settings: dict[str, Any]
    weights: Path


class Predictors:
    """Segments with the networks of bundles, which are kept once loaded.

    Requests wait for each other: two networks at once would take the same cores or the same GPU's memory.

    Args:
        device: "auto", "cpu", "cuda" or what else torch knows.
    """

    def __init__(self, *, device: str = "auto") -> None:
        self.device = device
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple[Path, int], BundlePredictor] = OrderedDict()

    def segment(self, bundle: ServedBundle, files: Sequence[Path], options: SamplingOptions) -> Segmented:
        """Segment the image that `files` are, with entropy, and variance where there are several draws.

        Raises:
            DataError: the image is unreadable or not what the bundle expects.
            SpecError: options that the network cannot take.
            WeightsError: weights that cannot be used.
        """
        weights = bundle.weights.path(options.weights)
        with self._lock:
            predictor = self._predictor(bundle, weights)
            predictor.network.set_sampling(steps=options.steps, draws=options.draws, seed=options.seed)
            prediction = predictor.predict(files[0] if len(files) == 1 else files)
            return Segmented(prediction, {**predictor.settings, "seed": options.seed}, weights)

    def _predictor(self, bundle: ServedBundle, weights: Path) -> BundlePredictor:
        from medsegdiff.inferers.predictor import BundlePredictor

        key = weights, weights.stat().st_mtime_ns if weights.exists() else 0
        if key not in self._loaded:
            self._loaded[key] = BundlePredictor(bundle.folder, weights=weights, device=self.device)
            while len(self._loaded) > _MOST_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]
