"""Measuring a trained network as its bundle evaluates: every case, after every sampling step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys
from numpy.typing import NDArray

from medsegdiff.compare.machine import describe_machine
from medsegdiff.compare.probes import probe_case
from medsegdiff.compare.runs import Probe, Sampling
from medsegdiff.compare.step_means import StepMeans
from medsegdiff.compare.uncertainty import PooledUncertainty, case_uncertainty, normalised
from medsegdiff.data.bundle_config import EVALUATE_CONFIG, TRAIN_CONFIG, read_bundle_config
from medsegdiff.errors import SpecError, plain_user_errors
from medsegdiff.handlers.metrics_report import MetricsReport, spacing_of
from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.loading import resolve_device
from medsegdiff.inferers.slicewise import Segmenter
from medsegdiff.metrics.segmentation import ClassMetrics
from medsegdiff.networks.segmenter import Segmentation
from medsegdiff.transforms.restore import Restored

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Goes through cases and shows how far it is."""


@dataclass(frozen=True, eq=False)
class CaseViews:
    """What is known of one case after sampling, on the grid of its file.

    Attributes:
        image: first channel of the file (*S).
        truth: label map (*S).
        prediction: label map (*S).
        probabilities: of the K classes (K, *S), summing to one.
        steps: label map after each sampling step (N, *S); the last is the prediction.
        spacing: of the voxels, in mm.
    """

    image: NDArray[Any]
    truth: NDArray[Any]
    prediction: NDArray[Any]
    probabilities: NDArray[np.float64]
    steps: NDArray[Any]
    spacing: tuple[float, ...]


class RunEvaluator:
    """Samples and measures the cases of a bundle's `evaluate.json` with one network, loaded once.

    Taken from that file are `network_def`, `datalist`, `preprocessing`, `inferer`, `postprocessing`, and of its
    `MetricsReport` the classes, regions and tolerance; so a number here is the number of `evaluating`.

    Args:
        bundle: folder of the bundle.
        weights: of the network, or of the members of an ensemble.
        overrides: ids of `evaluate.json`.
        train_overrides: ids of `train.json` whose `validate#preprocessing` brings truth onto the network's grid, for
            probes.
        device: "auto", "cpu" or "cuda".

    Attributes:
        cases: names of the cases.

    Raises:
        MedSegDiffError: data, weights or settings that do not exist or do not fit.
    """

    def __init__(
        self,
        bundle: Path,
        weights: Sequence[Path],
        *,
        overrides: Mapping[str, Any],
        train_overrides: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        self.device = resolve_device(device)
        files = [str(path) for path in weights]
        parser = read_bundle_config(
            bundle,
            EVALUATE_CONFIG,
            {**overrides, "weights": files[0] if len(files) == 1 else files, "device": str(self.device)},
        )
        with plain_user_errors():
            self.network: Segmenter = parser.get_parsed_content("network_def")
            self._items: list[dict[str, Any]] = parser.get_parsed_content("datalist")
            self._preprocessing: Compose = parser.get_parsed_content("preprocessing")
            self._inferer: Any = parser.get_parsed_content("inferer")
            self._postprocessing: Compose = parser.get_parsed_content("postprocessing")
            handlers = parser.get_parsed_content("handlers")
        self._report: MetricsReport = _one(handlers, MetricsReport, bundle / EVALUATE_CONFIG)
        self._restored = _one(self._postprocessing.flatten().transforms, Restored, bundle / EVALUATE_CONFIG)
        self._bundle, self._train_overrides = bundle, dict(train_overrides or {})
        self._own_samplers = [(member, member.sampler, dict(member.sampler_options)) for member in self._members()]
        self.cases = [str(item["case"]) for item in self._items]

    def evaluate(self, sampling: Sampling, *, steps: Sequence[int], progress: Progress = iter) -> dict[str, Any]:
        """Sample every case and measure it.

        Args:
            sampling: how.
            steps: after which steps to measure, counted from 1; of an ensemble, and where the inferer shows no whole
                images on the way, only the last is.
            progress: goes through the cases.

        Returns:
            "cases", rows of metrics with their "step"; "uncertainty", a row a case; "calibration", the bins of all
            cases together; "sparsification", their mean curve; "seconds_per_case", reading, preparing and sampling;
            "machine".
        """
        self._set_sampling(sampling)
        rows: list[dict[str, Any]] = []
        uncertainty = PooledUncertainty()
        seconds = 0.0
        for number in progress(range(len(self._items))):
            started = time.perf_counter()
            item = self._prepared(number)
            result, means = self._sample(item, sampling, steps=steps, draws=sampling.draws > 1)
            seconds += time.perf_counter() - started
            case, truth = self.cases[number], item[Keys.LABEL]
            for step, probabilities in self._by_step(result, means, sampling).items():
                measured = self._measure(self._label(item, probabilities), truth, case)
                rows += [{"step": step, "probe": "", "t": None, **asdict(row)} for row in measured]
            found = case_uncertainty(
                self._probabilities(item, result.probabilities[0]),
                _array(truth)[0],
                [self._label(item, draw) for draw in means.draws],
            )
            uncertainty.add(case, found)
        return {
            "cases": rows,
            "uncertainty": uncertainty.rows,
            "calibration": uncertainty.calibration(),
            "sparsification": uncertainty.sparsification(),
            "seconds_per_case": seconds / max(1, len(self._items)),
            "machine": describe_machine(self.device),
        }

    def probe(self, probe: Probe, *, progress: Progress = iter) -> dict[str, Any]:
        """Predict every case once from the x_t of its truth and once from pure noise, and measure both.

        The network sees the whole image at once; see `probe_case`. The result is brought back as a prediction is.

        Returns:
            "cases", as `evaluate` gives them, with "probe" and "t".
        """
        parser = read_bundle_config(self._bundle, TRAIN_CONFIG, self._train_overrides)
        with plain_user_errors():
            preprocessing = parser.get_parsed_content("validate#preprocessing")
        restore = Restored(Keys.PRED, preprocessing)
        rows: list[dict[str, Any]] = []
        for number in progress(range(len(self._items))):
            with plain_user_errors():
                seen = preprocessing(self._items[number])
            truth, case = self._prepared(number)[Keys.LABEL], self.cases[number]
            network: Any = self.network
            found = probe_case(network, {**seen, "case": case}, t=probe.t, seed=probe.seed, device=self.device)
            for kind, probabilities in found.items():
                label = _array(restore({**seen, Keys.PRED: probabilities})[Keys.PRED])[0]
                measured = self._measure(label, truth, case)
                rows += [{"step": 1, "probe": kind, "t": probe.t, **asdict(row)} for row in measured]
        return {"cases": rows}

    def views(self, case: str, sampling: Sampling) -> CaseViews:
        """Sample one case for pictures; see `CaseViews`."""
        self._set_sampling(sampling)
        item = self._prepared(self.cases.index(case))
        result, means = self._sample(item, sampling, steps=range(1, sampling.steps + 1), draws=False)
        labels = [self._label(item, probabilities) for probabilities in self._by_step(result, means, sampling).values()]
        truth = item[Keys.LABEL]
        return CaseViews(
            image=self._image(item),
            truth=_array(truth)[0],
            prediction=labels[-1],
            probabilities=normalised(self._probabilities(item, result.probabilities[0])),
            steps=np.stack(labels),
            spacing=tuple(spacing_of(truth)),
        )

    def _members(self) -> list[Any]:
        return self.network.segmenters if isinstance(self.network, EnsembleSegmenter) else [self.network]

    def _set_sampling(self, sampling: Sampling) -> None:
        for member, own, options in self._own_samplers:
            if not member.supervised:
                member.set_sampling(
                    sampler=sampling.sampler,
                    sampler_options=options if sampling.sampler == own else {},
                    steps=sampling.steps,
                    draws=sampling.draws,
                    seed=sampling.seed,
                )

    def _prepared(self, number: int) -> dict[str, Any]:
        with plain_user_errors():
            item: dict[str, Any] = self._preprocessing(self._items[number])
        return item

    def _sample(
        self, item: Mapping[str, Any], sampling: Sampling, *, steps: Iterable[int], draws: bool
    ) -> tuple[Segmentation, StepMeans]:
        image = item[Keys.IMAGE]
        single = not isinstance(self.network, EnsembleSegmenter) and not self.network.supervised
        before_the_last = set(steps) - {sampling.steps} if single else set()
        means = StepMeans(
            self.network,
            image.shape[1:],
            steps=before_the_last,
            draws=sampling.steps if draws and single else None,
        )
        result: Segmentation = self._inferer.sample(
            image[None].to(self.device), self.network, callback=means if single else None
        )
        return replace(result, probabilities=result.probabilities.cpu(), variance=torch.empty(0)), means

    def _by_step(self, result: Segmentation, means: StepMeans, sampling: Sampling) -> dict[int, torch.Tensor]:
        """Mean probabilities (K, *S) on the network's grid, by the number of the step; the last are the result's."""
        return {**means.means, sampling.steps: result.probabilities[0]}

    def _label(self, item: Mapping[str, Any], probabilities: torch.Tensor) -> NDArray[Any]:
        """The label map (*S_image) that the bundle makes of probabilities (K, *S)."""
        with plain_user_errors():
            restored: Any = self._postprocessing({**item, Keys.PRED: MetaTensor(probabilities)})
        return _array(restored[Keys.PRED])[0]

    def _probabilities(self, item: Mapping[str, Any], probabilities: torch.Tensor) -> NDArray[Any]:
        """The same (K, *S_image), before an arg-max."""
        classes = self._restored.classes({**item, Keys.PRED: MetaTensor(probabilities)})
        return np.stack([_array(channel)[0] for channel in classes])

    def _image(self, item: Mapping[str, Any]) -> NDArray[Any]:
        """The first channel of the preprocessed image, on the grid of its file."""
        first = item[Keys.IMAGE].as_subclass(torch.Tensor)[:1]
        return _array(self._restored.classes({**item, Keys.PRED: first})[0])[0]

    def _measure(self, label: NDArray[Any], truth: MetaTensor, case: str) -> list[ClassMetrics]:
        """Rows of a label map (*S) against the truth (1, *S), as the bundle's `MetricsReport` makes them."""
        return self._report.measure(label, _array(truth)[0], spacing=spacing_of(truth), case=case)


def _one(candidates: Iterable[Any], kind: type, config: Path) -> Any:
    with contextlib.suppress(StopIteration):
        return next(one for one in candidates if isinstance(one, kind))
    msg = f"{config} has no {kind.__name__}, by which a study measures; add one to the bundle"
    raise SpecError(msg)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return np.asarray(tensor.as_subclass(torch.Tensor).cpu())
