"""Tables of a report as text: every mean and difference with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medsegdiff.compare.analysis.drawing import label_of, metric_title
from medsegdiff.compare.analysis.frames import ENTRY
from medsegdiff.compare.analysis.report_text import entry_cells, number, p_value, percent, with_interval
from medsegdiff.compare.analysis.sampling_analyses import CURVES

METRICS_SHOWN = ("dice", "iou", "hd95", "nsd", "boundary_f")


@dataclass(frozen=True, eq=False)
class Table:
    """A table in a report; its first `text_columns` are text, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 2
    open: bool = False


def means_table(
    title: str,
    table: pd.DataFrame,
    columns: dict[str, str],
    metrics: Sequence[str],
    *,
    counts: bool = False,
    open_: bool = False,
) -> Table:
    """A line for each entry and value of `columns`, a column of means with intervals for each metric."""
    if table.empty:
        return Table(title, [], [])
    shown = [metric for metric in metrics if (table["metric"] == metric).any()]
    rows = []
    for _, group in table.groupby([*ENTRY, *columns], sort=False, dropna=False, observed=True):
        first = group.iloc[0]
        cells = [*entry_cells(first), *(cell(first[column]) for column in columns)]
        for metric in shown:
            one = group[group["metric"] == metric]
            cells.append(with_interval(one.iloc[0]) if len(one) else number(None))
        cells.append(cell(group["n"].max()))
        rows.append([*cells, *(cell(first[name]) for name in ("missed", "spurious") if counts)])
    head = ["method", "sampling", *columns.values(), *(metric_title(metric) for metric in shown), "cases"]
    return Table(title, [*head, *(("missed", "spurious") if counts else ())], rows, open=open_)


def paired_table(
    title: str,
    table: pd.DataFrame,
    columns: dict[str, str] | None = None,
    *,
    holm: bool = False,
    metrics: Sequence[str] = METRICS_SHOWN,
) -> Table:
    """A line for each paired difference, with both tests; `columns` come before the metric."""
    columns = columns or {}
    rows = []
    for _, row in table.iterrows():
        if row["metric"] in metrics:
            tests = [_bare_p(row[f"{test}_holm" if holm else test]) for test in ("p_t", "p_wilcoxon")]
            rows.append(
                [
                    *entry_cells(row),
                    *(cell(row[column]) or "all" for column in columns),
                    metric_title(row["metric"]),
                    with_interval(row, value="difference", sign=True),
                    *tests,
                    percent(row["improved"]),
                    cell(row["n"]),
                ]
            )
    tested = ("p, t-test (Holm)", "p, Wilcoxon (Holm)") if holm else ("p, t-test", "p, Wilcoxon")
    head = ["method", "sampling", *columns.values(), "metric", "difference", *tested, "better", "cases"]
    return Table(title, head, rows, text_columns=3 + len(columns))


def settings_table(title: str, table: pd.DataFrame, columns: dict[str, str] | None = None) -> Table:
    """A line for each setting: its mean, and the difference to the first one."""
    columns = columns or {}
    rows = [
        [
            *entry_cells(row),
            *(cell(row[column]) for column in columns),
            metric_title(row["metric"]),
            with_interval(row),
            with_interval(row, value="difference", ends="difference_low difference_high", sign=True),
            _bare_p(row["p_t"]) if row["difference"] == row["difference"] else number(None),
            cell(row["n"]),
        ]
        for _, row in table.iterrows()
    ]
    head = ["method", "sampling", *columns.values(), "metric", "mean", "difference to the first", "p, t-test", "cases"]
    return Table(title, head, rows)


def probe_table(table: pd.DataFrame) -> Table:
    """A line for each network, t and metric."""
    rows = [
        [
            label_of(row),
            f"{row['t']:g}",
            metric_title(row["metric"]),
            number(row["from_truth"], row["metric"]),
            number(row["from_noise"], row["metric"]),
            number(row["in_x_t"], row["metric"]),
            with_interval(row, value="difference", sign=True),
            cell(row["n"]),
        ]
        for _, row in table.iterrows()
        if row["metric"] in CURVES
    ]
    head = ["method", "t", "metric", "truth", "noise", "x_t itself", "truth − noise", "cases"]
    return Table("From truth, from noise, and without a network", head, rows, text_columns=1)


def spread_table(title: str, table: pd.DataFrame) -> Table:
    """A line for each entry and metric: mean and spread of groups."""
    rows = [
        [
            *entry_cells(row),
            metric_title(row["metric"]),
            f"{number(row['mean'], row['metric'])} ± {number(row['sd'], row['metric'])}",
            f"{number(row['lowest'], row['metric'])} to {number(row['highest'], row['metric'])}",
            cell(row["groups"]),
        ]
        for _, row in table.iterrows()
        if row["metric"] in METRICS_SHOWN
    ]
    return Table(title, ["method", "sampling", "metric", "mean ± sd", "range", "groups"], rows, text_columns=3)


def volume_table(table: pd.DataFrame) -> Table:
    """A line for each entry and class: bias and limits with their intervals."""
    rows = []
    for _, row in table.iterrows():
        limits = [_limit(row, name) for name in ("bias", "lower", "upper")]
        rows.append([*entry_cells(row), row["class_name"], *limits, cell(row["n"])])
    head = ["method", "sampling", "class", "bias, mm³ (mm² in 2-D)", "lower limit", "upper limit", "cases"]
    return Table("Bias and limits of agreement", head, rows, text_columns=3)


def _limit(row: pd.Series, name: str) -> str:
    middle, low, high = (f"{row[key]:+.1f}".replace("-", "−") for key in (name, f"{name}_low", f"{name}_high"))
    return f"{middle} [{low}, {high}]"


def uncertainty_table(table: pd.DataFrame) -> Table:
    """A line for each entry and measure."""
    rows = [
        [*entry_cells(row), str(row["measure"]).upper(), with_interval(row), cell(row["n"])]
        for _, row in table.iterrows()
    ]
    return Table("Uncertainty", ["method", "sampling", "measure", "mean", "cases"], rows, text_columns=3)


def cell(value: Any) -> str:
    """A text as it is, a number in four digits, a dash for what is undefined."""
    if isinstance(value, str):
        return value
    return number(None) if value != value else f"{value:.4g}"


def _bare_p(p: float) -> str:
    return p_value(p).removeprefix("=").strip()
