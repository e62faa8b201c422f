"""The report of a study: one HTML file that needs nothing else, and the figures and the summary it is made of."""

from __future__ import annotations

import base64
import importlib.metadata
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medsegdiff import __version__
from medsegdiff.compare.analysis import pictures
from medsegdiff.compare.analysis.claims import FAILS, HOLDS, NOT_MEASURED, UNDECIDED
from medsegdiff.compare.analysis.drawing import colour_of, label_of, metric_title, sampling_label, save_figure
from medsegdiff.compare.analysis.frames import ENTRY, in_order, matches
from medsegdiff.compare.analysis.markdown import PAGE_NAME, study_page
from medsegdiff.compare.analysis.report_sections import Picture, Section, sections
from medsegdiff.compare.analysis.report_tables import METRICS_SHOWN, means_table
from medsegdiff.compare.analysis.report_text import (
    MISSING,
    beside,
    count_methods,
    interval_picture,
    what_was_found,
    with_indices,
    with_interval,
)
from medsegdiff.compare.analysis.summary import StudyTables, analyse, read_tables, strict, summarise, write_summary
from medsegdiff.compare.analysis.surface import surface_figure
from medsegdiff.files import written_whole

REPORT_NAME = "report.html"
_LIBRARIES = ("monai", "torch", "numpy", "pandas", "scipy", "statsmodels", "matplotlib")
_ADVICE = "choose a folder that can be written"


def write_report(folder: str | Path, *, published: bool = False) -> Path:
    """Write `report.html`, `summary.json` and `figures/*.png` of a study.

    All of it is made of `cases.csv`, `runs.csv`, `uncertainty.csv`, `calibration.csv`, `sparsification.csv`,
    `study.yaml` and `pictures/*.npz` in the folder, of which only the first must be there; the same files give the same
    report.

    Args:
        folder: of the study.
        published: as repositories want it: the report shows the files in `figures/` instead of holding them, and a
            `README.md` shows the study where the folder is browsed.

    Returns:
        The path of the report.

    Raises:
        DataError: a table or picture cannot be read, or the folder cannot be written to.
    """
    folder = Path(folder)
    study = read_tables(folder)
    tables = analyse(study)
    summary = summarise(study, tables)
    write_summary(summary, folder)
    parts = sections(study, tables, folder / "figures", pictures=_picture_sections(folder, study))
    settings = read_settings(folder / "study.yaml")
    context = {
        "settings": settings,
        "study_text": _read_text(folder / "study.yaml"),
        "summary": summary,
        "verdicts": [_verdict(claim) for claim in summary["claims"]],
        "main": _main_rows(tables),
        "main_metrics": _main_metrics(tables["main"]),
        "every_sampling": means_table("Every way of sampling", tables["main"], {}, METRICS_SHOWN, counts=True),
        "sections": parts,
        "metric_title": metric_title,
        "made": {**summary["made"], "versions": _versions()},
        "short": _short,
        "methods": count_methods(summary["cases"]["methods"]),
        "label_of": label_of,
        "address": _linked if published else _embedded,
    }
    if published:
        with written_whole(folder / PAGE_NAME, advice=_ADVICE) as partial:
            partial.write_text(study_page(strict(summary), settings, parts), encoding="utf-8")
    path = folder / REPORT_NAME
    with written_whole(path, advice=_ADVICE) as partial:
        partial.write_text(_template().render(context), encoding="utf-8")
    return path


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medsegdiff.compare.analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["indexed"] = with_indices
    return environment.get_template("report.html.j2")


def _verdict(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A claim as its card shows it."""
    kinds = {HOLDS: "holds", FAILS: "fails", UNDECIDED: "undecided", NOT_MEASURED: "missing"}
    return {
        **claim,
        "kind": kinds[claim["verdict"]],
        "evidence": [
            {"text": what_was_found(one), "beside": beside(one), "picture": interval_picture(one)}
            for one in claim["comparisons"]
        ],
    }


def _main_metrics(main: pd.DataFrame) -> list[str]:
    """The metrics that say most, as few as fit a page."""
    measured = [] if main.empty else [metric for metric in METRICS_SHOWN if (main["metric"] == metric).any()]
    planar = "boundary_f" in measured
    return [metric for metric in measured if metric != ("nsd" if planar else "iou")]


def _main_rows(tables: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """A row a method, by its primary way of sampling; the best mean of a metric is marked."""
    main, cost = tables["main"], tables["cost"]
    if main.empty:
        return []
    primary = main[main["primary"]]
    best = {
        metric: (group["mean"].min() if metric == "hd95" else group["mean"].max())
        for metric, group in primary.groupby("metric")
    }
    rows = []
    for keys, group in primary.groupby(ENTRY, sort=False):
        entry = dict(zip(ENTRY, keys, strict=True))
        spent = matches(cost, entry).iloc[0].to_dict() if len(cost) and len(matches(cost, entry)) else {}
        cells = {
            row["metric"]: {"text": with_interval(row), "best": row["mean"] == best[row["metric"]]}
            for row in group.to_dict("records")
        }
        rows.append(
            {
                "label": label_of(entry),
                "sampling": sampling_label(entry),
                "colour": colour_of(entry),
                "cells": cells,
                "n": int(group["n"].max()),
                "missed": int(group["missed"].iloc[0]),
                "spurious": int(group["spurious"].iloc[0]),
                "minutes": _short(spent.get("train_minutes"), 1),
                "seconds": _short(spent.get("seconds_per_case"), 2),
                "parameters": _short(spent.get("parameters", float("nan")) / 1e6, 2),
            }
        )
    return rows


def _picture_sections(folder: Path, study: StudyTables) -> list[Section]:
    """A section with the kept cases, each as the methods segment it."""
    snapshots = pictures.read_snapshots(folder / "pictures")
    drawn = []
    for number_, (case, group) in enumerate(itertools.groupby(snapshots, key=lambda one: one.case), start=1):
        members = _as_reports_show(list(group))
        chosen = _to_look_at(members)
        title = f"Case {case} ({chosen.rank})"
        planes = "Planes through the most of the truth; uncertainty from 0 (one class is certain) to 1 (all are equal)."
        for name, figure, caption in (
            (
                "overview",
                pictures.overview_figure(chosen, pictures.class_names(study.cases, chosen)),
                f"{title}: {chosen.title}. {planes}",
            ),
            ("methods", pictures.comparison_figure(members), f"{title}: the errors of every method, with its Dice."),
            ("steps", pictures.steps_figure(members), f"{title}: the error after each sampling step."),
            (
                "surface",
                surface_figure(chosen),
                f"{title}: the surface of the truth, coloured by its distance to the prediction, from two sides "
                f"({chosen.title}).",
            ),
        ):
            if figure is not None:
                path = save_figure(figure, folder / "figures" / f"case_{number_}_{name}.png")
                drawn.append(Picture(path, caption))
    text = "The best, the median and the worst case, and those between, by the Dice of a diffusion method."
    return [Section("pictures", "Cases to look at", text, drawn)] if drawn else []


def _as_reports_show(members: list[pictures.Snapshot]) -> list[pictures.Snapshot]:
    """Files are named by hashes, methods have an order."""
    keys = [{"method": one.method, "options": one.options, "place": place} for place, one in enumerate(members)]
    return [members[place] for place in in_order(pd.DataFrame(keys))["place"]]


def _to_look_at(members: list[pictures.Snapshot]) -> pictures.Snapshot:
    """Recycling where it was measured, else a method that samples, else any."""
    return min(members, key=lambda one: (one.method != "recycling" or bool(one.options), len(one.steps) < 2))


def _versions() -> dict[str, str]:
    return {"medsegdiff": __version__, **{name: importlib.metadata.version(name) for name in _LIBRARIES}}


def read_settings(path: Path) -> dict[str, Any]:
    """The study file, for the words of the report; empty where it is missing or not what it should be."""
    import yaml

    try:
        content = yaml.safe_load(_read_text(path))
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _embedded(path: Path) -> str:
    """A PNG as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _linked(path: Path) -> str:
    """Where a report finds a picture beside it."""
    return f"{path.parent.name}/{path.name}"


def _short(value: Any, digits: int) -> str:
    return MISSING if value is None or value != value else f"{value:,.{digits}f}".replace(",", " ")
