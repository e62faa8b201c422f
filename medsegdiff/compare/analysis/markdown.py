"""A study as Markdown: the page that shows it where repositories are browsed, and the block of a README.

Both are made of what `summary.json` and `study.yaml` hold, so that anyone can make them again.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medsegdiff.compare.analysis.claims import FAILS, HOLDS
from medsegdiff.compare.analysis.drawing import INDEXED, label_of, sampling_label
from medsegdiff.compare.analysis.frames import ENTRY
from medsegdiff.compare.analysis.report_sections import Section
from medsegdiff.compare.analysis.report_text import (
    MISSING,
    count_methods,
    held_against,
    p_value,
    percent,
    with_interval,
)
from medsegdiff.compare.study import OWN
from medsegdiff.errors import DataError, SpecError, one_line
from medsegdiff.files import written_whole

PAGE_NAME = "README.md"

Rows = Sequence[Mapping[str, Any]]


def results_block(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What a README shows of a study: on what it rests, its results and its verdicts.

    Args:
        summary: what `summary.json` holds.
        settings: what the study file says.
    """
    parts = [
        _said(summary, settings),
        _results_table(summary),
        _verdict_table(summary["claims"]),
        _read_with_care(summary, settings),
    ]
    return "\n\n".join(part for part in parts if part)


def study_page(summary: Mapping[str, Any], settings: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The page of a published study.

    Args:
        summary: what `summary.json` holds.
        settings: what the study file says.
        sections: of its report; their pictures are shown, from `figures/`.
    """
    name = settings.get("name", "comparison")
    parts = [
        f"# {name}",
        results_block(summary, settings),
        "## Every step",
        "Mean Dice of the prediction after each sampling step.",
        _steps_table(summary["tables"]["step_curves"]),
        *(part for section in sections if section.pictures for part in _shown(section)),
        "## Again",
        "`study.yaml` is the study, `cases.csv.gz` has a row for each case, class, run, way of sampling and step, and "
        "`summary.json` all numbers, among them the tables that are not shown here; `report.html` shows them all. "
        "`medsegdiff report` makes the summary, the report, the figures and this page again from the tables.",
        *([str(settings["credit"])] if settings.get("credit") else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def put_block(path: Path, name: str, block: str) -> None:
    """Replace what stands in a file between the two comments that are the place of a study's results.

    Args:
        path: of a Markdown file that holds `<!-- results of NAME -->` and, below, `<!-- end of results of NAME -->`.
        name: of the study.
        block: what is to stand there.

    Raises:
        DataError: the file cannot be read or written.
        SpecError: it has no such place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read ({one_line(error)}); give a Markdown file"
        raise DataError(msg) from error
    place = _place(name)
    if not place.search(text):
        first, last = _marks(name)
        msg = f"{path} has no place for the study {name!r}; put the lines {first} and {last} where its results belong"
        raise SpecError(msg)
    with written_whole(path, advice="give a file that can be written") as partial:
        partial.write_text(place.sub(lambda _: _marked(name, block), text), encoding="utf-8")


def block_in(text: str, name: str) -> str | None:
    """What stands in the place of a study's results; None where there is no such place."""
    found = _place(name).search(text)
    return found[1].strip() if found else None


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- results of {name} -->", f"<!-- end of results of {name} -->"


def _marked(name: str, block: str) -> str:
    first, last = _marks(name)
    return f"{first}\n\n{block}\n\n{last}"


def _place(name: str) -> re.Pattern[str]:
    first, last = (re.escape(mark) for mark in _marks(name))
    return re.compile(f"{first}(.*?){last}", re.DOTALL)


def _said(summary: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What was compared, on what, and what that took."""
    cases, made = summary["cases"], summary["made"]
    budget = settings.get("budget") or {}
    amount = f"{budget['steps']} optimiser steps" if budget.get("steps") else f"{budget.get('minutes')} minutes"
    size = f", size {settings['size']}" if settings.get("size") else ""
    said = [
        f"{count_methods(cases['methods'])} on the bundle {settings.get('bundle')}{size}, each method trained for "
        f"{amount}, measured on {cases['n_cases']} cases."
    ]
    if made["train_minutes"] is not None:
        said.append(
            f"{made['trainings']} trainings took {made['train_minutes']:.0f} minutes in all, on "
            f"{'; '.join(made['machines'])}."
        )
    if summary["failed"]:
        said.append("Failed: " + "; ".join(f"{label_of(run)}: {run['reason']}" for run in summary["failed"]) + ".")
    return " ".join(said)


def _results_table(summary: Mapping[str, Any]) -> str:
    """A row for each method and way of sampling, the one that stands for a method in bold."""
    tables = summary["tables"]
    rows = []
    for keys, group in _grouped(tables["main"], ENTRY):
        metrics = {row["metric"]: row for row in group}
        against = _only(tables["against_supervised"], {**keys, "metric": "dice"})
        spent = _only(tables["cost"], keys)
        label = _indexed(label_of(keys))
        rows.append(
            [
                f"**{label}**" if group[0]["primary"] else label,
                sampling_label(keys),
                *(with_interval(metrics[name]) if name in metrics else MISSING for name in ("dice", "hd95")),
                with_interval(against, value="difference", sign=True) if against else MISSING,
                p_value(against["p_t_holm"]).removeprefix("=").strip() if against else MISSING,
                percent(against["improved"]) if against else MISSING,
                _rounded(spent.get("train_minutes"), 1),
                _rounded(spent.get("seconds_per_case"), 2),
            ]
        )
    head = ("method", "sampling", "Dice [95 % CI]", "HD95, mm", "Dice − supervised", "p (Holm)", "better in")
    return _table([*head, "training, min", "s a case"], rows, text=2)


def _verdict_table(claims: Rows) -> str:
    rows = []
    for claim in claims:
        verdict = f"**{claim['verdict']}**" if claim["verdict"] in (HOLDS, FAILS) else claim["verdict"]
        found = [
            f"{_indexed(held_against(one))}: {with_interval(one, value='difference', sign=True)}, "
            f"p {p_value(one['p_t_holm'])}"
            for one in claim["comparisons"]
        ]
        rows.append(
            [
                _indexed(claim["statement"]),
                claim["source"],
                verdict,
                "<br>".join([*found, *filter(None, [claim["reason"]])]),
            ]
        )
    return _table(["claim", "of", "here", "difference of Dice [95 % CI], p of the t-test (Holm)"], rows, text=4)


def _read_with_care(summary: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """What the numbers do not say."""
    trainings = {len(one["trainings"]) for claim in summary["claims"] for one in claim["comparisons"]}
    said = []
    if trainings == {1}:
        said.append("One training of each method: the intervals are over cases, and another training may differ.")
    if study.get("weights", OWN) == OWN:
        said.append("Weights are those that a method's own sampler found best in validation, whichever measures them.")
    settings = summary["settings"]
    said.append(
        f"On par: within ±{settings['par_margin']:g}; no decline: above −{settings['decline_margin']:g}. All p are of "
        "paired t-tests, corrected by Holm's method over all methods in the first table and over all comparisons of "
        "claims in the second."
    )
    return " ".join(said)


def _steps_table(curves: Rows) -> str:
    """A row for each way of sampling in several steps, all of which were measured."""
    rows = []
    for keys, group in _grouped([row for row in curves if row["metric"] == "dice"], ENTRY):
        if len(group) > 1:
            rows.append((keys, {int(row["step"]): with_interval(row) for row in group}))
    shown = sorted({step for _, cells in rows for step in cells})
    lines = [
        [_indexed(label_of(keys)), sampling_label(keys), *(cells.get(step, "") for step in shown)]
        for keys, cells in rows
    ]
    return _table(["method", "sampling", *(f"step {step}" for step in shown)], lines, text=2) if lines else ""


def _shown(section: Section) -> list[str]:
    pictures = [
        f"![{picture.caption}](figures/{picture.path.name})\n\n*{_indexed(picture.caption)}*"
        for picture in section.pictures
    ]
    return [f"## {_indexed(section.title)}", _indexed(section.text), *pictures]


def _indexed(text: str) -> str:
    """A text for Markdown, with the indices of x_T and x_(t+1) below the line."""
    return INDEXED.sub(lambda found: f"x<sub>{found[1] or found[2]}</sub>", html.escape(text, quote=False))


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, text: int) -> str:
    rule = ["---"] * text + ["---:"] * (len(head) - text)
    # A bar within a cell, such as in the reason of a failure, would end it.
    lines = [[str(cell).replace("|", "\\|") for cell in line] for line in (head, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _grouped(rows: Rows, by: Sequence[str]) -> list[tuple[dict[str, Any], list[Mapping[str, Any]]]]:
    """Rows that agree in `by`, in the order of their first ones."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in by), []).append(row)
    return [(dict(zip(by, keys, strict=True)), group) for keys, group in found.items()]


def _only(rows: Rows, keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first row with these values; empty where there is none."""
    return next((row for row in rows if all(row[key] == value for key, value in keys.items())), {})


def _rounded(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
