"""What a viewer can ask a bundle for: its segmentation, where it is unsure, and single draws."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from numpy.typing import NDArray

from medsegdiff.apps.label.bundles import RGB, ServedBundle
from medsegdiff.apps.label.options import SamplingOptions, read_choice
from medsegdiff.apps.label.predictors import Predictors, Segmented
from medsegdiff.apps.label.results import formats_of, write_result
from medsegdiff.errors import SpecError
from medsegdiff.methods.training_data import in_words, weights_training_data
from medsegdiff.notice import RESEARCH_ONLY

FILES = "files"
"""Key of a request under which the app puts the files of the image."""
DRAWS_FOR_UNCERTAINTY = 4
_MEASURES, _VALUES = ("entropy", "variance"), ("bands", "percent")
BANDS = {0.25: (255, 225, 90), 0.5: (255, 140, 0), 0.75: (215, 25, 28)}
"""From which uncertainty on a voxel is in a band, and the colour of the band: yellow, orange, red."""


class BundleTask(InferTask):
    """One result of a bundle, as a model of its own: viewers list models, and show one label map for each.

    A request may name `steps`, `draws`, `seed` and `weights`; what the network was validated with is the default.

    Args:
        bundle: whose network it is.
        predictors: the networks of the server.
        labels: name of each label to its number; the bundle's by default.
        colours: in which each label is shown; the bundle's by default.
        description: what a viewer tells about it, to which "research use only" is added.
    """

    def __init__(
        self,
        bundle: ServedBundle,
        predictors: Predictors,
        *,
        labels: Mapping[str, int] | None = None,
        colours: Mapping[str, RGB] | None = None,
        description: str | None = None,
    ) -> None:
        self.bundle = bundle
        self.predictors = predictors
        self.colours = dict(bundle.colours if colours is None else colours)
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=dict(bundle.labels if labels is None else labels),
            dimension=bundle.spec.spatial_dims,
            description=f"{description or bundle.description}. {RESEARCH_ONLY}",
        )

    @property
    def supervised(self) -> bool:
        """Whether the network segments in one call, without steps, draws and seed."""
        from medsegdiff.methods import get_method

        return get_method(self.bundle.spec.method).schedule_for(self.bundle.spec.task) is None

    def is_valid(self) -> bool:
        """That the bundle has weights was found before."""
        return True

    def get_path(self, validate: bool = True) -> str:
        """The weights that are used where a request names none."""
        return str(self.bundle.weights.path())

    def config(self) -> dict[str, Any]:
        """The options of a request and their defaults; a list is a choice."""
        weights = {"weights": self.bundle.weights.names()}
        if self.supervised:
            return weights
        return {"steps": self.bundle.spec.steps, "draws": self.default_draws(), "seed": 0, **weights}

    def default_draws(self) -> int:
        """How many draws are taken where the request does not say."""
        return self.bundle.spec.draws

    def options(self, request: Mapping[str, Any]) -> SamplingOptions:
        """How a request wants it sampled."""
        return SamplingOptions.read(request, steps=self.bundle.spec.steps, draws=self.default_draws())

    def labels_of(self, segmented: Segmented, request: Mapping[str, Any]) -> NDArray[Any]:
        """The label map (*S) to show."""
        return segmented.prediction.label

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment the image of a request.

        Returns:
            Path of a temporary file with the label map, and what there is to tell about it.

        Raises:
            MedSegDiffError: what the request, the image or the weights are unfit for.
        """
        started = time.perf_counter()
        options = self.options(request)
        read_choice(request, "result_extension", formats_of(Path(request[FILES][0])))
        segmented = self.predictors.segment(self.bundle, request[FILES], options)
        prediction = segmented.prediction
        label = self.labels_of(segmented, request)
        image = Path(request[FILES][0])
        path = write_result(label, prediction.affine, image=image, request=request, bundle=self.bundle.name)
        latencies = {stage: round(seconds, 3) for stage, seconds in prediction.stage_seconds.items()}
        return str(path), {
            "label_names": self.labels,
            "notice": RESEARCH_ONLY,
            "bundle": self.bundle.name,
            "version": self.bundle.metadata.get("version"),
            "training_data": in_words(weights_training_data(segmented.weights)),
            "weights": self.bundle.weights.name_of(segmented.weights),
            "steps": list(prediction.steps),
            "draws": options.draws,
            "seed": options.seed,
            "latencies": {**latencies, "total": round(time.perf_counter() - started, 3)},
        }


class SegmentationTask(BundleTask):
    """The segmentation of a bundle: the mean over draws, most probable class."""


class CandidateTask(BundleTask):
    """A single draw: another segmentation that the network holds possible.

    Candidate k is the one draw of the seed of the request plus k - 1, so that candidate 1 is the segmentation of a
    single draw.

    Args:
        bundle: whose network it is.
        predictors: the networks of the server.
        number: k, counted from 1.
    """

    def __init__(self, bundle: ServedBundle, predictors: Predictors, *, number: int) -> None:
        super().__init__(bundle, predictors, description=f"{bundle.description}: candidate {number}, a single draw")
        self.number = number

    def config(self) -> dict[str, Any]:
        """As the segmentation's, without the number of draws."""
        return {name: value for name, value in super().config().items() if name != "draws"}

    def options(self, request: Mapping[str, Any]) -> SamplingOptions:
        """One draw, whatever the request says."""
        asked = SamplingOptions.read({**request, "draws": 1}, steps=self.bundle.spec.steps, draws=1)
        return SamplingOptions(asked.steps, 1, asked.seed + self.number - 1, asked.weights)


class UncertaintyTask(BundleTask):
    """Where a bundle is unsure, as a label map that every viewer can show.

    The map is either cut into bands, label k where the uncertainty is above a quarter, a half and three quarters, or
    given in per cent, 0 to 100. "entropy" is that of the class probabilities; "variance" is twice that over draws, cut
    at 1: what half of two draws contradict comes out as 1.
    """

    def __init__(self, bundle: ServedBundle, predictors: Predictors) -> None:
        colours = {f"uncertainty above {band:.0%}": colour for band, colour in BANDS.items()}
        super().__init__(
            bundle,
            predictors,
            labels={name: number for number, name in enumerate(colours, start=1)},
            colours=colours,
            description=f"Where the segmentation is unsure: {bundle.description}",
        )

    def default_draws(self) -> int:
        """Enough draws to differ."""
        return 1 if self.supervised else max(self.bundle.spec.draws, DRAWS_FOR_UNCERTAINTY)

    def config(self) -> dict[str, Any]:
        """As the segmentation's, and what to show."""
        measures = _MEASURES[:1] if self.supervised else _MEASURES
        return {**super().config(), "measure": list(measures), "values": list(_VALUES)}

    def options(self, request: Mapping[str, Any]) -> SamplingOptions:
        """As the segmentation's, once it is known that what to show can be shown."""
        read_choice(request, "measure", _MEASURES)
        read_choice(request, "values", _VALUES)
        return super().options(request)

    def labels_of(self, segmented: Segmented, request: Mapping[str, Any]) -> NDArray[np.uint8]:
        """The uncertainty (*S) in bands or in per cent."""
        measure = read_choice(request, "measure", _MEASURES)
        values = read_choice(request, "values", _VALUES)
        prediction = segmented.prediction
        amount = prediction.entropy if measure == "entropy" else prediction.variance
        if amount is None:
            msg = "got measure='variance' for a single draw; give 2 draws or more, or measure='entropy'"
            raise SpecError(msg)
        share = np.clip(amount if measure == "entropy" else 2 * amount, 0, 1)
        if values == "percent":
            return np.rint(100 * share).astype(np.uint8)
        return np.digitize(share, list(BANDS)).astype(np.uint8)


def tasks_of(bundle: ServedBundle, predictors: Predictors, *, candidates: int) -> dict[str, BundleTask]:
    """The models of a bundle by name: BUNDLE, BUNDLE_uncertainty, and BUNDLE_candidate_1, …, for sampling networks."""
    segmentation = SegmentationTask(bundle, predictors)
    tasks: dict[str, BundleTask] = {
        bundle.name: segmentation,
        f"{bundle.name}_uncertainty": UncertaintyTask(bundle, predictors),
    }
    if not segmentation.supervised:
        for number in range(1, candidates + 1):
            tasks[f"{bundle.name}_candidate_{number}"] = CandidateTask(bundle, predictors, number=number)
    return tasks
