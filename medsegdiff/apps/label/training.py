"""Fine-tuning of a bundle on the labels that were corrected in a viewer."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask

from medsegdiff.apps.label.bundles import ServedBundle
from medsegdiff.apps.label.options import LARGEST_SEED, read_choice, read_fraction, read_number
from medsegdiff.apps.label.segmentations import NAMES, segments_of
from medsegdiff.apps.label.weights import BETTER, WEIGHTS
from medsegdiff.data.bundle_config import TRAIN_CONFIG, read_bundle_config
from medsegdiff.data.datalist import DATASET_FILE
from medsegdiff.data.reading import case_name
from medsegdiff.data.splits import three_way, write_json, write_split
from medsegdiff.errors import DataError, SpecError, plain_user_errors
from medsegdiff.handlers.run_checkpoint import CHECKPOINT_NAME
from medsegdiff.methods import RunSpec
from medsegdiff.notice import RESEARCH_ONLY

logger = logging.getLogger(__name__)

SPLIT_FILE = "split.json"
FEWEST_CASES = 2
# A tenth of the rate that the bundle was trained with from scratch.
RATE_FACTOR = 0.1
_NO_NAME = re.compile(r"(segment|label)?[ _-]*\d*", re.IGNORECASE)  # as viewers call what nobody named


class FineTuning(TrainTask):
    """Trains a bundle on the cases with a final label, from weights that it is served with.

    The bundle's own `train.json` is run, with the network of the weights. Every run has a folder of its own; what the
    bundle ships is only read.

    Args:
        bundle: what to train.
        device: "auto", "cpu", "cuda" or what else torch knows.
    """

    def __init__(self, bundle: ServedBundle, *, device: str = "auto") -> None:
        super().__init__(f"Fine-tuning on final labels: {bundle.description}. {RESEARCH_ONLY}")
        self.bundle = bundle
        self.device = device

    def config(self) -> dict[str, Any]:
        """The options of a request and their defaults; a list is a choice."""
        return {
            "epochs": 20,
            "learning_rate": self._default_rate,
            "validation_share": 0.2,
            "seed": 0,
            "weights": self.bundle.weights.names(),
        }

    def stats(self) -> dict[str, Any]:
        """What the last finished run reports."""
        return self.bundle.weights.result()

    def check(self, request: Mapping[str, Any], datastore: Datastore) -> None:
        """Make sure that a request can be trained, before a process is started for it.

        Raises:
            SpecError: an option out of range.
            DataError: fewer than two cases with a final label.
        """
        self._options(request)
        if len(datastore.get_labeled_images()) < FEWEST_CASES:
            raise _too_few(len(datastore.get_labeled_images()))

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train.

        Returns:
            What `stats` gives from then on: the cases, the settings, and the Dice of the validation cases, before and
            at its best. Weights that are worse than those before are kept, but served to those who name them only.

        Raises:
            MedSegDiffError: what request, labels or weights are unfit for.
        """
        options = self._options(request)
        items = self._items(datastore)
        run = self.bundle.weights.new_run()
        start = self.bundle.weights.path(options["weights"])
        parts = _write_cases(run, items, share=options["validation_share"], seed=options["seed"])
        before, score = self._train(run, start, options, training=parts["training"])
        result = {
            "name": run.name,
            "started_from": self.bundle.weights.name_of(start),
            "training_cases": parts["training"],
            "validation_cases": parts["validation"],
            "metric": "mean Dice of the validation cases",
            "best_metric": score,
            "metric_before": before,
            BETTER: score >= before,
            **options,
        }
        (run / CHECKPOINT_NAME).unlink(missing_ok=True)  # the optimiser's state, twice the size of the weights
        self.bundle.weights.finish(run, result)
        return result

    def _options(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "epochs": read_number(request, "epochs", 20, most=10_000),
            "learning_rate": read_fraction(request, "learning_rate", self._default_rate),
            "validation_share": read_fraction(request, "validation_share", 0.2, most=0.9),
            "seed": read_number(request, "seed", 0, least=0, most=LARGEST_SEED),
            "weights": read_choice(request, "weights", self.bundle.weights.names()),
        }

    @functools.cached_property
    def _default_rate(self) -> float:
        parser = self._config(self.bundle.spec)
        return float(f"{RATE_FACTOR * parser.get_parsed_content('learning_rate'):.3g}")

    def _config(self, spec: RunSpec, overrides: Mapping[str, Any] | None = None) -> Any:
        """The bundle's `train.json` for the network of `spec`; what the bundle has no id for is left out."""
        parser = read_bundle_config(self.bundle.folder, TRAIN_CONFIG)
        settings = {"bundle_root": str(self.bundle.folder), **(overrides or {}), **_settings_of(spec)}
        for name, value in settings.items():
            if name in parser:
                parser[name] = value
        return parser

    def _items(self, datastore: Datastore) -> list[dict[str, Any]]:
        """Image and label of each case, the image as a list of files where it has one a channel.

        Cases are left out that the bundle cannot take, or whose label is of other structures.
        """
        store: Any = datastore  # one of ours, which knows which files belong together
        items: dict[tuple[Path, ...], dict[str, Any]] = {}
        reason = ""
        for image_id in sorted(datastore.get_labeled_images()):
            try:
                files = store.files_of(image_id, self.bundle)
                label = Path(store.get_label_uri(image_id, DefaultLabelTag.FINAL.value))
                self._check_names(store.get_label_info(image_id, DefaultLabelTag.FINAL.value))
            except DataError as error:
                reason = reason or f"; one of those left out: {error}"
                continue
            # Several modalities of one case may carry its label: it counts once.
            items.setdefault(tuple(files), {"image": [str(file) for file in files], "label": str(label)})
        if len(items) < FEWEST_CASES:
            raise _too_few(len(items), reason)
        return [
            {**item, "image": item["image"] if len(item["image"]) > 1 else item["image"][0]} for item in items.values()
        ]

    def _check_names(self, info: Mapping[str, Any]) -> None:
        """Make sure that a label whose structures have names has those of the bundle's classes.

        Raises:
            DataError: it has others, or what it has are none.
        """
        try:
            segments_of(info.get(NAMES))
        except SpecError as error:
            raise DataError(str(error)) from error
        names = [str(entry.get("name") or "").strip() for entry in info.get(NAMES) or []]
        classes = self.bundle.spec.class_names[1:]
        fit = [not name or name.lower() == one.lower() for name, one in zip(names, classes, strict=False)]
        if not all(fit) and not all(_NO_NAME.fullmatch(name) for name in names):
            msg = f"got a label of {', '.join(names)}; allowed are {', '.join(classes)}, in this order: name them so"
            raise DataError(msg)

    def _train(
        self, run: Path, start: Path, options: Mapping[str, Any], *, training: Sequence[str]
    ) -> tuple[float, float]:
        """Run the bundle's training in a folder; the scores of its validation, before and at its best."""
        from medsegdiff.handlers.validation import SamplerValidation
        from medsegdiff.methods import spec_path

        spec = RunSpec.read(spec_path(start))
        overrides = {
            "dataset_dir": str(run),
            "split_file": str(run / SPLIT_FILE),
            "run_dir": str(run),
            "init_weights": str(start),
            "epochs": options["epochs"],
            "learning_rate": options["learning_rate"],
            "seed": options["seed"],
            "val_interval": max(1, options["epochs"] // 10),
        }
        if self.device != "auto":
            overrides["device"] = self.device
        parser = self._config(spec, overrides)
        with plain_user_errors():
            parser["batch_size"] = min(int(parser.get_parsed_content("batch_size")), len(training))
            parser.parse(reset=True)
            parser.get_parsed_content("initialize")
            validation = next(
                handler
                for handler in parser.get_parsed_content("train#handlers")
                if isinstance(handler, SamplerValidation)
            )
            validation.validator.run(1)
            before = float(validation.validator.state.metrics[validation.metric])
            parser.get_parsed_content("run")
        if not (run / WEIGHTS).is_file():
            msg = f"the training of {self.bundle.name} gave no weights: its validation gave no number; check the labels"
            raise DataError(msg)
        return round(before, 4), round(float(validation.best[spec.sampler]), 4)


def _settings_of(spec: RunSpec) -> dict[str, Any]:
    """The ids of a `train.json` that make the network that weights are of."""
    return {
        "method": spec.method,
        "size": spec.size,
        "dims": spec.spatial_dims,
        "network_options": spec.options,
        "prediction_options": spec.prediction_options,
        "schedule": spec.schedule,
        "sampler": spec.sampler,
        "sampler_options": spec.sampler_options,
        "steps": spec.steps,
        "draws": spec.draws,
        "roi_size": list(spec.roi_size),
    }


def _write_cases(run: Path, items: Sequence[dict[str, Any]], *, share: float, seed: int) -> dict[str, list[str]]:
    """Write the list of cases and their split where the bundle's training looks for them."""
    names = [case_name(item["label"]) for item in items]
    validation = min(len(names) - 1, max(1, round(share * len(names))))
    parts = three_way(names, training=len(names) - validation, validation=validation, test=0, seed=seed)
    write_json(run / DATASET_FILE, {"name": "labels of this server", "training": list(items)})
    write_split(run / SPLIT_FILE, parts, seed=seed)
    return parts


def _too_few(number: int, reason: str = "") -> DataError:
    return DataError(
        f"got {number} cases with a final label; needed are {FEWEST_CASES} or more, one of which validates: label more"
        f"{reason}"
    )
