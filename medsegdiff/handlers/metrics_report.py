"""Handler that measures every case of an evaluator's run and writes the report at its end."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.meta_tensor import MetaTensor

from medsegdiff.errors import DataError, SpecError
from medsegdiff.metrics.segmentation import ClassMetrics, case_metrics
from medsegdiff.metrics.summary import TITLES, format_table, summarise, summarised_metrics, write_metrics

logger = logging.getLogger("medsegdiff")

# The path of a case where its metadata has one, and its rows under a provisional name.
_Measured = tuple[str | None, list[ClassMetrics]]


class MetricsReport:
    """Measures prediction against truth after every iteration; at the end logs a table and writes the files.

    Attach it to an evaluator with `decollate=True` (MONAI's default): `engine.state.output` is then a list of dicts.
    When the run is completed, `metrics.csv` and `summary.json` stand in `output_dir`, the table is logged to the logger
    "medsegdiff", and `engine.state.metrics` holds `mean_dice`, `dice_<class>`, `mean_hd95`, … and the counts
    `n_missed`, `n_spurious` and `n_absent`. Files and metrics hold all that cases are measured by (see
    `medsegdiff.metrics.segmentation`; some for 2-D images only), the table a few.

    A case is called after the file of its label (without folder and extension; with as many folders as names need to
    differ). In several processes the rows of all are gathered and the first process writes; use a sampler that does
    not repeat cases (`even_divisible=False`), a repeated case is counted again, under a numbered name and with a
    warning.

    Args:
        output_dir: folder for the two files; made when it does not exist.
        class_names: names of the foreground classes; `class_names[0]` is label 1.
        regions: measure unions of classes in place of the classes, such as the nested ones of brain tumours:
            {"whole tumour": [1, 2, 3], "tumour core": [2, 3], "enhancing tumour": [3]}; names to labels.
        nsd_tolerance: tolerance of the normalised surface Dice, in mm.
        keys: keys of prediction and truth in each item. The prediction is a label map (1, *S), or probabilities or a
            one-hot mask (K, *S), K = classes with background, of which the largest wins; the truth is a label map
            (1, *S) as MetaTensor, whose `pixdim` is the spacing in mm.
        settings: how the predictions were made (method, sampler, steps, draws, seed, …); written beside the metrics.
        table_metrics: which metrics the table shows, by name such as "precision"; by default the usual four.

    Raises:
        SpecError: a metric for the table that does not exist, or a region of labels that are no classes.
        DataError: while running, for a case that cannot be measured: no spacing, two grids, wrong channels or values.
        SpecError: while running, for items that were not decollated or lack a key.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str],
        *,
        regions: Mapping[str, Sequence[int]] | None = None,
        nsd_tolerance: float = 1.0,
        keys: tuple[str, str] = ("pred", "label"),
        settings: Mapping[str, Any] | None = None,
        table_metrics: Sequence[str] | None = None,
    ) -> None:
        if unknown := [metric for metric in table_metrics or () if metric not in TITLES]:
            msg = f"metrics {', '.join(unknown)} do not exist; use some of {', '.join(TITLES)}"
            raise SpecError(msg)
        labels = range(1, len(class_names) + 1)
        if wrong := [name for name, values in (regions or {}).items() if not values or not set(values) <= set(labels)]:
            msg = f"regions {', '.join(wrong)} have no labels, or others than the classes 1 to {len(class_names)}"
            raise SpecError(msg)
        self.output_dir = output_dir
        self.regions = dict(regions or {})
        self.class_names = tuple(class_names)
        self.nsd_tolerance = nsd_tolerance
        self.keys = keys
        self.settings = {"nsd_tolerance": nsd_tolerance, **(settings or {})}
        self.table_metrics = table_metrics
        self._measured: list[_Measured] = []

    def attach(self, engine: Engine) -> None:
        """Attach to `engine`, an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def measure(
        self,
        prediction: np.ndarray | torch.Tensor,
        truth: np.ndarray | torch.Tensor,
        *,
        spacing: Sequence[float],
        case: str,
    ) -> list[ClassMetrics]:
        """A row for each class, or for each region where there are any.

        Args:
            prediction: label map (*S).
            truth: label map (*S).
            spacing: of the voxels, in mm.
            case: name of the case.

        Raises:
            DataError: see `case_metrics`.
        """
        options: dict[str, Any] = {"spacing": spacing, "nsd_tolerance": self.nsd_tolerance, "case": case}
        if not self.regions:
            return case_metrics(prediction, truth, class_names=self.class_names, **options)
        rows: list[ClassMetrics] = []
        for number, (region, labels) in enumerate(self.regions.items(), start=1):
            values = torch.tensor(labels)
            maps = (torch.isin(torch.as_tensor(one).cpu(), values).to(torch.uint8) for one in (prediction, truth))
            rows += [replace(row, label=number) for row in case_metrics(*maps, class_names=[region], **options)]
        return rows

    def _start(self, _engine: Engine) -> None:
        self._measured = []

    def _collect(self, engine: Engine) -> None:
        items = engine.state.output
        if not isinstance(items, list) or not all(isinstance(i, Mapping) and set(self.keys) <= set(i) for i in items):
            msg = (
                f"MetricsReport needs a list of items with the keys {self.keys}; set decollate=True and check the keys"
            )
            raise SpecError(msg)
        for item in items:
            self._measured.append(self._measure(item))

    def _measure(self, item: Mapping[str, Any]) -> _Measured:
        prediction, truth = (item[key] for key in self.keys)
        path = _path(truth)
        name = _stem(path) if path else f"case_{len(self._measured) + 1:04d}"
        if not isinstance(truth, MetaTensor):
            msg = (
                f"case {name}: {self.keys[1]!r} is a plain {type(truth).__name__} without voxel spacing; "
                "load it as MetaTensor so that distances can be given in mm"
            )
            raise DataError(msg)
        if truth.shape[0] != 1:
            msg = (
                f"case {name}: {self.keys[1]!r} has {truth.shape[0]} channels; allowed is a label map with one channel"
            )
            raise DataError(msg)
        if isinstance(prediction, MetaTensor):
            _check_grid(prediction, truth, name)
        n_classes = len(self.class_names) + 1
        found, wanted = _label_map(prediction, n_classes, f"case {name}: {self.keys[0]!r}"), truth[0]
        return path, self.measure(found, wanted, spacing=spacing_of(truth), case=name)

    def _report(self, engine: Engine) -> None:
        measured = _gather(self._measured)
        names = _names([path for path, _ in measured])
        rows = [replace(row, case=name) for name, (_, case) in zip(names, measured, strict=True) for row in case]
        summary = summarise(rows)
        engine.state.metrics.update(_flat(summary))
        if idist.get_rank() == 0:
            csv_path, json_path = write_metrics(rows, summary, self.output_dir, settings=self.settings)
            table = format_table(summary, metrics=self.table_metrics)
            logger.info("metrics of %d cases, mean ± std:\n%s", summary["n_cases"], table)
            logger.info("wrote %s and %s", csv_path, json_path)


def _label_map(prediction: torch.Tensor, n_classes: int, what: str) -> torch.Tensor:
    """(1, *S) or (K, *S) -> (*S)."""
    tensor = prediction.as_tensor() if isinstance(prediction, MetaTensor) else torch.as_tensor(prediction)
    if tensor.shape[0] == 1:
        return tensor[0]
    if tensor.shape[0] != n_classes:
        msg = (
            f"{what} has {tensor.shape[0]} channels; allowed are 1 (label map) or {n_classes} (classes with background)"
        )
        raise DataError(msg)
    if not torch.isfinite(tensor).all():
        msg = f"{what} holds NaN or infinite values; the network or its input is broken"
        raise DataError(msg)
    return tensor.argmax(dim=0)


def _check_grid(prediction: MetaTensor, truth: MetaTensor, name: str) -> None:
    """Refuse two affines that may place some voxel more than a tenth of its size apart."""
    a, b = prediction.affine.double().cpu(), truth.affine.double().cpu()
    if a.shape != b.shape:
        return  # the readers of 2-D files give 3x3 or 4x4 matrices; the shapes of the images are compared in any case
    extent = torch.ones(len(a), dtype=a.dtype)
    extent[: truth.ndim - 1] = torch.tensor(truth.shape[1:], dtype=a.dtype)
    apart = float(((a - b)[:-1].norm(dim=0) * extent).sum())  # bound over all voxels: origin plus drift along each axis
    if apart > 0.1 * min(spacing_of(truth)):
        msg = (
            f"case {name}: prediction and truth lie up to {apart:.3g} mm apart; "
            "bring both onto one grid (invert the transforms of the prediction, or apply them to the truth)"
        )
        raise DataError(msg)


def _path(truth: Any) -> str | None:
    path = truth.meta.get("filename_or_obj") if isinstance(truth, MetaTensor) else None
    if isinstance(path, list | tuple) and path:
        path = path[0]
    return str(path) if path else None


def _stem(path: str) -> str:
    return PurePath(PurePath(path).name.removesuffix(".gz")).stem


def _names(paths: Sequence[str | None]) -> list[str]:
    """A name for each case: the stem of its file, with as many parent folders as names need to differ."""
    different = {path for path in paths if path}
    names: dict[str, str] = {path: _stem(path) for path in different}
    for n_parents in range(1, max((len(PurePath(path).parts) for path in different), default=1)):
        if len(set(names.values())) == len(different):
            break
        names = {path: "/".join([*PurePath(path).parent.parts[-n_parents:], _stem(path)]) for path in different}
    result, seen = [], Counter[str]()
    for index, path in enumerate(paths, start=1):
        name = names[path] if path else f"case_{index:04d}"
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    if repeated := sorted(name for name, n in seen.items() if n > 1):
        logger.warning("measured more than once: %s", ", ".join(repeated))
    return result


def _gather(measured: list[_Measured]) -> list[_Measured]:
    """The measured cases of all processes, in the order of their ranks."""
    if idist.get_world_size() == 1:
        return measured
    parts: list[list[_Measured]] = [[] for _ in range(idist.get_world_size())]
    torch.distributed.all_gather_object(parts, measured)
    return [case for part in parts for case in part]


def _flat(summary: Mapping[str, Any]) -> dict[str, float]:
    """The summary as `engine.state.metrics` holds it."""
    metrics = summarised_metrics(summary)
    flat = {f"mean_{metric}": summary["mean"][metric]["mean"] for metric in metrics}
    for name, entry in summary["classes"].items():
        flat |= {f"{metric}_{name}": entry[metric]["mean"] for metric in metrics}
    return flat | {key: summary["mean"][key] for key in ("n_missed", "n_spurious", "n_absent")}


def spacing_of(truth: MetaTensor) -> list[float]:
    """Edge lengths of a voxel in mm, one a spatial axis: MONAI 1.5 counts three for a picture, too."""
    return [float(mm) for mm in truth.pixdim][: truth.ndim - 1]
