"""Means, spreads and bootstrap intervals of measured cases, as a table for the eye and files for machines."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff.errors import DataError, SpecError
from medsegdiff.files import written_whole
from medsegdiff.metrics.segmentation import METRICS, METRICS_2D, ClassMetrics

TITLES = {
    "dice": "Dice",
    "hd95": "HD95",
    "nsd": "NSD",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "boundary_f": "Boundary F",
    "weighted_coverage": "WCov",
    "area_ratio": "Area ratio",
}
CONFIDENCE, N_RESAMPLES, SEED = 0.95, 2000, 0
"""Of the bootstrap intervals, where nothing else is asked for."""
_COUNTS = ("n_cases", "n_missed", "n_spurious", "n_absent")


def summarise(
    rows: Sequence[ClassMetrics], *, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES, seed: int = SEED
) -> dict[str, Any]:
    """Summarise measured cases, for each class and over classes.

    The mean over classes is taken within each case first and over cases then, undefined values (NaN) left out at both
    stages, as in the recycling paper (Fu et al., MELBA 2023:016).

    Args:
        rows: what `case_metrics` returned for all cases, joined; case names must differ.
        confidence: coverage of the interval of the mean, in (0, 1).
        n_resamples: bootstrap resamples of the cases.
        seed: seed of the resampling; the same rows and seed give the same interval.

    Returns:
        `{"n_cases", "confidence", "classes": {name: summary}, "mean": summary}`. A summary holds `n_cases`, `n_missed`,
        `n_spurious` and `n_absent` (for "mean": summed over classes, but `n_cases`), and for every metric `mean`,
        `std` (sample, n-1), `median`, `n` (defined values), `ci_low` and `ci_high` (percentile bootstrap of the mean;
        NaN for fewer than two values). The metrics are `METRICS`, and `METRICS_2D` where a case was measured by them.

    Raises:
        DataError: there are no rows, or a case has a class twice.
        SpecError: `confidence` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        msg = f"confidence is {confidence}; allowed is a number between 0 and 1"
        raise SpecError(msg)
    if not rows:
        msg = "there is no measured case to summarise; check that the data list is not empty"
        raise DataError(msg)
    names = list(dict.fromkeys(row.class_name for row in sorted(rows, key=lambda row: row.label)))
    cases = {case: index for index, case in enumerate(dict.fromkeys(row.case for row in rows))}
    times = Counter((row.case, row.class_name) for row in rows)
    if twice := [case for (case, _), n in times.items() if n > 1]:
        msg = f"case {twice[0]!r} was measured more than once; give every case a name of its own"
        raise DataError(msg)

    def statistics(values: np.ndarray) -> dict[str, float]:
        return _statistics(values, confidence=confidence, n_resamples=n_resamples, seed=seed)

    planar = [metric for metric in METRICS_2D if any(getattr(row, metric) is not None for row in rows)]
    table = {metric: np.full((len(cases), len(names)), math.nan) for metric in (*METRICS, *planar)}
    for metric, values in table.items():
        for row in rows:
            values[cases[row.case], names.index(row.class_name)] = getattr(row, metric)  # None becomes NaN
    classes: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(names):
        statuses = [row.status for row in rows if row.class_name == name]
        counts = {f"n_{status}": statuses.count(status) for status in ("missed", "spurious", "absent")}
        classes[name] = {"n_cases": len(statuses), **counts}
        classes[name] |= {metric: statistics(values[:, column]) for metric, values in table.items()}
    mean: dict[str, Any] = {key: sum(classes[name][key] for name in names) for key in _COUNTS}
    mean["n_cases"] = len(cases)
    mean |= {metric: statistics(_nanmean_over_classes(values)) for metric, values in table.items()}
    return {"n_cases": len(cases), "confidence": confidence, "classes": classes, "mean": mean}


def summarised_metrics(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics that a summary of `summarise` holds, in their usual order."""
    return tuple(metric for metric in (*METRICS, *METRICS_2D) if metric in summary["mean"])


def printed_metrics(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The four metrics that say most, in as narrow a table as a terminal holds: others in 2-D than in 3-D."""
    planar = "boundary_f" in summarised_metrics(summary)
    return ("dice", "iou", "hd95", "boundary_f") if planar else ("dice", "iou", "hd95", "nsd")


def format_table(summary: Mapping[str, Any], *, metrics: Sequence[str] | None = None) -> str:
    """A plain-text table of what `summarise` returned.

    A line for each class (mean ± std), then the mean over classes and its interval; `n/a` where nothing was defined.
    The counts are of cases whose truth alone (missed), prediction alone (spurious) or neither (absent) holds the class;
    in the line of the mean they are sums over classes. HD95 has the unit mm in 3-D and none for pictures, where a
    distance is one in pixels unless the picture has a scale.

    Args:
        summary: what `summarise` returned.
        metrics: which to show, by default `printed_metrics`.

    Raises:
        SpecError: a metric that the summary does not hold.
    """
    metrics = printed_metrics(summary) if metrics is None else tuple(metrics)
    known = summarised_metrics(summary)
    if unknown := [metric for metric in metrics if metric not in known]:
        msg = f"cannot show {', '.join(unknown)}; these cases were measured by {', '.join(known)}"
        raise SpecError(msg)
    titles = [_title(metric, planar="boundary_f" in known) for metric in metrics]
    header = ["class", "cases", "missed/spurious/absent", *titles]
    lines = [header]
    for name, entry in [*summary["classes"].items(), ("mean", summary["mean"])]:
        counts = "/".join(str(entry[key]) for key in _COUNTS[1:])
        cells = [_spread(entry[metric], _digits(metric)) for metric in metrics]
        lines.append([name, str(entry["n_cases"]), counts, *cells])
    intervals = [_interval(summary["mean"][metric], _digits(metric)) for metric in metrics]
    lines.append([f"{100 * summary['confidence']:g} % CI", "", "", *intervals])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    rendered = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    rule = "-" * max(map(len, rendered))
    return "\n".join([rendered[0], rule, *rendered[1:-2], rule, *rendered[-2:]])


def write_metrics(
    rows: Sequence[ClassMetrics],
    summary: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write `metrics.csv` (a row for each case and class) and `summary.json`; each appears whole or not at all.

    Undefined values are `nan` in the table and null in the JSON file; what no case was measured by has no column.

    Args:
        rows: the measured rows.
        summary: what `summarise` made of them.
        folder: where to write; made when it does not exist.
        settings: how the prediction was made (method, sampler, steps, …): further columns, and `settings` in the JSON.

    Returns:
        The paths of the two files.

    Raises:
        DataError: the folder cannot be made or written to.
        SpecError: a setting has the name of a column.
    """
    settings = dict(settings or {})
    columns = [field.name for field in fields(ClassMetrics)]
    if clash := sorted(set(settings) & set(columns)):
        msg = f"settings holds {', '.join(clash)}, which name columns of the metrics; rename these settings"
        raise SpecError(msg)
    columns = [c for c in columns if c not in METRICS_2D or any(getattr(row, c) is not None for row in rows)]
    table = io.StringIO()
    writer = csv.DictWriter(table, [*columns, *settings], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {column: getattr(row, column) for column in columns}
        writer.writerow({key: _cell(value) for key, value in {**values, **settings}.items()})
    report = json.dumps(_strict({"settings": settings, **summary}), indent=2, ensure_ascii=False, default=str) + "\n"

    csv_path, json_path = Path(folder) / "metrics.csv", Path(folder) / "summary.json"
    with contextlib.ExitStack() as stack:  # both are complete before the first takes its place
        for path, text in ((csv_path, table.getvalue()), (json_path, report)):
            partial = stack.enter_context(written_whole(path, advice="choose a folder that can be written"))
            partial.write_text(text, encoding="utf-8", newline="")
    return csv_path, json_path


def _statistics(values: np.ndarray, *, confidence: float, n_resamples: int, seed: int) -> dict[str, float]:
    values = values[~np.isnan(values)]
    n = len(values)
    low, high = bootstrap_interval(values, confidence=confidence, n_resamples=n_resamples, seed=seed)
    return {
        "mean": float(values.mean()) if n else math.nan,
        "std": float(values.std(ddof=1)) if n > 1 else math.nan,
        "median": float(np.median(values)) if n else math.nan,
        "n": n,
        "ci_low": low,
        "ci_high": high,
    }


def bootstrap_interval(
    values: np.ndarray, *, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """The interval of the mean of defined values (N,), by percentile bootstrap; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    from scipy.stats import bootstrap  # a second to import

    # Percentiles rather than BCa: the latter is undefined where all values are equal, as for a class always missed.
    # One seed for every metric and class: their intervals come from the same resampled cases.
    result = bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=n_resamples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _nanmean_over_classes(table: np.ndarray) -> np.ndarray:
    """Mean of (cases, classes) over classes -> (cases,), without numpy's warning for a case with nothing defined."""
    defined = ~np.isnan(table)
    n = defined.sum(axis=1)
    return np.where(n > 0, np.where(defined, table, 0).sum(axis=1) / np.maximum(n, 1), math.nan)


def _digits(metric: str) -> int:
    return 2 if metric == "hd95" else 3


def _title(metric: str, *, planar: bool) -> str:
    # Distances in a picture are pixels where it has no scale, which most pictures have not, and mm elsewhere.
    return f"{TITLES[metric]} mm" if metric == "hd95" and not planar else TITLES[metric]


def _spread(entry: Mapping[str, float], digits: int) -> str:
    if not entry["n"]:
        return "n/a"
    spread = "" if math.isnan(entry["std"]) else f" ± {entry['std']:.{digits}f}"
    return f"{entry['mean']:.{digits}f}{spread}"


def _interval(entry: Mapping[str, float], digits: int) -> str:
    return "n/a" if math.isnan(entry["ci_low"]) else f"{entry['ci_low']:.{digits}f}–{entry['ci_high']:.{digits}f}"


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _strict(value: Any) -> Any:
    """`value` with null for what strict JSON cannot say (NaN, infinity)."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
