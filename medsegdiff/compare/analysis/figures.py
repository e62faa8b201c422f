"""Figures of methods and of their sampling, from the tables of the analyses.

Every function gives a figure, or None where its table holds nothing to draw; bands and bars are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medsegdiff.compare.analysis.claims import PAR_MARGIN
from medsegdiff.compare.analysis.drawing import (
    NAMES,
    WIDTH,
    colour_of,
    label_of,
    legend_below,
    line_styles,
    marker_of,
    metric_title,
    sampling_label,
    typeset,
)
from medsegdiff.compare.analysis.frames import ENTRY, case_values, groups, matches, primary_entries, results
from medsegdiff.compare.analysis.report_text import number, percent
from medsegdiff.figures import INK, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.3
"""Inches of a line of text in a figure of rows."""
_MOST_TICKS = 10
_MOST_SPACES = 5
"""Between the ticks of differences, whose numbers are long."""
_OTHER_PAPERS = ("segdiff", "cdal")


def step_curves_figure(curves: pd.DataFrame, metrics: Sequence[str] = ("dice", "hd95")) -> Figure | None:
    """Metrics over the sampling steps; plain methods alone.

    A column for each sampler, and for the methods of other papers one of their own: they live on other scales.
    """
    plain = curves[curves["options"] == ""] if len(curves) else curves
    if len(plain):  # of an ensemble only the last step is measured, which is no curve
        plain = plain[plain.groupby(ENTRY, observed=True)["step"].transform("nunique") > 1]
    metrics = [metric for metric in metrics if len(plain) and (plain["metric"] == metric).any()]
    if not metrics:
        return None
    panels = []
    for sampler in sorted(plain["sampler"].unique(), key=lambda name: (name != "ddpm", name)):
        entries = _primary_of(plain[plain["sampler"] == sampler])
        for title, others in ((sampler.upper(), False), (f"others, {sampler.upper()}", True)):
            members = [keys for keys in entries if (keys["method"] in _OTHER_PAPERS) == others]
            panels += [(title, others, members)] if members else []
    panels.sort(key=lambda panel: panel[1])
    with styled():
        figure = new_figure(WIDTH if len(panels) > 1 else 0.75 * WIDTH, 2.2 * len(metrics) + 0.7)
        axes = figure.subplots(len(metrics), len(panels), squeeze=False, sharex="col")
        for row, metric in enumerate(metrics):
            for ax, (title, _, members) in zip(axes[row], panels, strict=True):
                most = max(int(keys["steps"]) for keys in members)
                alike = all(keys["steps"] == most for keys in members)
                for keys in members:
                    line = matches(plain[plain["metric"] == metric], keys).sort_values("step")
                    # Methods of different numbers of steps meet at their first and their last one.
                    _curve(ax, 1 + (line["step"] - 1) * (most - 1) / (line["steps"] - 1), line, keys)
                if alike and most <= _MOST_TICKS:
                    ax.set_xticks(range(1, most + 1))
                else:
                    ax.set_xticks([1, most], ["first", "last"])
                ax.set_title(title if row == 0 else "")
                if row == len(metrics) - 1:
                    ax.set_xlabel("sampling step")
            axes[row, 0].set_ylabel(metric_title(metric))
            _same_limits([ax for ax, (_, others, _) in zip(axes[row], panels, strict=True) if not others])
        _legend(figure, axes)
    return figure


def forest_figure(table: pd.DataFrame, *, metric: str = "dice", against: str = "supervised") -> Figure | None:
    """Paired differences of one metric with their intervals, a row each."""
    rows = table[table["metric"] == metric] if len(table) else table
    if rows.empty:
        return None
    with styled():
        figure = new_figure(WIDTH, ROW * len(rows) + 0.9)
        ax = figure.subplots()
        if metric == "dice":
            ax.axvspan(-PAR_MARGIN, PAR_MARGIN, color="#f1f3f5", zorder=0)
        ax.axvline(0, color=INK, linewidth=0.9)
        labels = [typeset(label_of(keys)) for keys in rows.to_dict("records")]
        if "part" in rows:
            labels = [
                f"{label} − {typeset(NAMES.get(part, part))}" for label, part in zip(labels, rows["part"], strict=True)
            ]
        _rows(ax, rows.rename(columns={"difference": "mean"}), labels)
        for y, keys in enumerate(rows.to_dict("records")):
            said = f"{number(keys['difference'], metric, sign=True)}   {percent(keys['improved'])} better"
            ax.annotate(
                said, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, annotation_clip=False
            )
        ax.locator_params(axis="x", nbins=_MOST_SPACES)
        ax.set_xlabel(f"{metric_title(metric)}, difference to {against}")
    return figure


def cases_figure(cases: pd.DataFrame, metric: str = "dice") -> Figure | None:
    """The value of every case for every method, with boxes of the quartiles; a row for each method."""
    rows = results(cases)
    entries = primary_entries(cases).to_dict("records")
    values = [case_values(matches(rows, keys), ENTRY) for keys in entries]
    measured = [(keys, table[metric].dropna()) for keys, table in zip(entries, values, strict=True) if metric in table]
    drawn = [(keys, points.to_numpy()) for keys, points in measured if len(points)]
    if not drawn:
        return None
    with styled():
        figure = new_figure(WIDTH, 1.2 * ROW * len(drawn) + 0.7)
        ax = figure.subplots()
        for y, (keys, points) in enumerate(drawn):
            # The same cases at the same height in every row, so that one can be followed with the eye.
            jitter = np.linspace(-0.3, 0.3, len(points))[np.random.default_rng(0).permutation(len(points))]
            ax.scatter(points, y + jitter, s=9, color=colour_of(keys), alpha=0.55, linewidths=0)
            ax.boxplot(
                points,
                positions=[y],
                orientation="horizontal",
                widths=0.62,
                showfliers=False,
                boxprops={"color": INK, "linewidth": 0.9},
                medianprops={"color": INK, "linewidth": 2},
                whiskerprops={"color": INK, "linewidth": 0.9},
                capprops={"linewidth": 0},
            )
        ax.set_yticks(range(len(drawn)), [typeset(label_of(keys)) for keys, _ in drawn])
        ax.invert_yaxis()
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(f"{metric_title(metric)} of each case (mean over classes)")
    return figure


def setting_figure(
    table: pd.DataFrame, setting: str, *, xlabel: str, metrics: Sequence[str] = ("dice", "hd95")
) -> Figure | None:
    """Metrics over the number of steps, draws or time steps of training, a line for each method.

    Args:
        table: of `sampling_steps`, `draws` or `schedule_lengths`.
        setting: its column on the horizontal axis: "steps", "draws" or "T".
        xlabel: what that is, for readers.
        metrics: a panel each.
    """
    metrics = [metric for metric in metrics if len(table) and (table["metric"] == metric).any()]
    if not metrics:
        return None
    apart = ["method"] if setting == "T" else [column for column in ENTRY if column != setting]
    with styled():
        figure = new_figure(WIDTH, 2.9)
        axes = figure.subplots(1, len(metrics), squeeze=False)
        for ax, metric in zip(axes[0], metrics, strict=True):
            lines = list(groups(table[table["metric"] == metric], apart))
            for (keys, line), style in zip(lines, line_styles([keys for keys, _ in lines]), strict=True):
                ordered = line.sort_values(setting)
                _curve(ax, ordered[setting], ordered, keys, label=_line_label(keys, setting), **style)
            ticks = sorted(table[setting].unique())
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
            ax.set_title(metric_title(metric))
            ax.set_xlabel(xlabel)
        _legend(figure, axes)
    return figure


def early_stopping_figure(table: pd.DataFrame, metric: str = "dice") -> Figure | None:
    """What stopping early costs, over the share of the steps that were taken."""
    rows = table[(table["metric"] == metric) & (table["options"] == "")] if len(table) else table
    if rows.empty:
        return None
    from matplotlib.ticker import PercentFormatter

    chosen = _primary_of(rows)
    with styled():
        figure = new_figure(0.8 * WIDTH, 2.9)
        ax = figure.subplots()
        ax.axhline(0, color=INK, linewidth=0.9)
        for keys in chosen:
            line = matches(rows, keys).sort_values("share")
            label = f"{label_of(keys)}, of {int(keys['steps'])} steps"
            _curve(ax, line["share"], line.rename(columns={"difference": "mean"}), keys, label=label)
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.set_xlabel("share of the sampling steps taken")
        ax.set_ylabel(f"{metric_title(metric)}, difference to all steps")
        _legend(figure, np.array([[ax]]), columns=2)
    return figure


def seed_spread_figure(table: pd.DataFrame, metric: str = "dice") -> Figure | None:
    """How far sampling seeds lie apart at every step, for the primary ways of sampling."""
    rows = table[(table["metric"] == metric) & (table["steps"] > 1)] if len(table) else table
    if rows.empty:
        return None
    with styled():
        figure = new_figure(0.8 * WIDTH, 2.9)
        ax = figure.subplots()
        entries = _primary_of(rows)
        for keys, style in zip(entries, line_styles(entries), strict=True):
            line = matches(rows, keys).sort_values("step")
            _curve(ax, line["step"], line, keys, label=label_of(keys, sampling=True), **style)
        ax.set_xticks(sorted(rows["step"].unique()))
        ax.set_xlabel("step")
        ax.set_ylabel(f"mean |difference| of {metric_title(metric)}")
        ax.set_ylim(bottom=0)
        _legend(figure, np.array([[ax]]), columns=2)
    return figure


def truth_left_figure(table: pd.DataFrame, metric: str = "dice") -> Figure | None:
    """One prediction from the truth's x_t (filled) and from pure noise (hollow), and x_t itself; a panel for each t."""
    rows = table[table["metric"] == metric] if len(table) else table
    if rows.empty:
        return None
    times = sorted(rows["t"].unique())
    names = rows[["method", "options"]].drop_duplicates().to_dict("records")
    with styled():
        figure = new_figure(WIDTH, ROW * len(names) + 1.1)
        axes = figure.subplots(1, len(times), squeeze=False, sharey=True, sharex=True)[0]
        for ax, t in zip(axes, times, strict=True):
            for y, keys in enumerate(names):
                for one in matches(rows[rows["t"] == t], keys).to_dict("records"):
                    colour = colour_of(keys)
                    ax.plot([one["from_noise"], one["from_truth"]], [y, y], color=colour, linewidth=3, alpha=0.5)
                    ax.plot(one["from_noise"], y, "o", color=colour, markerfacecolor="white")
                    ax.plot(one["from_truth"], y, "o", color=colour)
                    ax.plot(one["in_x_t"], y, "|", color=INK, markersize=10, markeredgewidth=1.5)
            ax.set_title(f"t = {t:g}")
            ax.set_xlabel(metric_title(metric))
            ax.set_yticks(range(len(names)), [typeset(label_of(keys)) for keys in names])
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        axes[0].plot([], [], "o", color=INK, label="$x_t$ from the truth")
        axes[0].plot([], [], "o", color=INK, markerfacecolor="white", label="pure noise")
        if rows["in_x_t"].notna().any():
            axes[0].plot([], [], "|", color=INK, markersize=10, markeredgewidth=1.5, label="$x_t$ itself")
        _legend(figure, axes[None], columns=3)
    return figure


def _primary_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The entries of a table of an analysis, one way of sampling a method."""
    entries = table[ENTRY].drop_duplicates()
    return primary_entries(entries.assign(probe="", step=entries["steps"])).to_dict("records")


def _same_limits(axes: Sequence[Axes]) -> None:
    """Let panels of one scale share it."""
    for ax in axes:
        ax.set_ylim(min(one.get_ylim()[0] for one in axes), max(one.get_ylim()[1] for one in axes))


def _curve(ax: Axes, x: pd.Series, line: pd.DataFrame, keys: dict[str, Any], *, label: str = "", **style: Any) -> None:
    colour = colour_of(keys)
    ax.fill_between(x, line["ci_low"], line["ci_high"], color=colour, alpha=0.13, linewidth=0)
    ax.plot(x, line["mean"], color=colour, marker=marker_of(keys), label=typeset(label or label_of(keys)), **style)


def _rows(ax: Axes, rows: pd.DataFrame, labels: Sequence[str]) -> None:
    """A point and its interval for each row, from top to bottom."""
    for y, keys in enumerate(rows.to_dict("records")):
        colour = colour_of(keys)
        ax.plot([keys["ci_low"], keys["ci_high"]], [y, y], color=colour, linewidth=2.4, solid_capstyle="round")
        ax.plot(keys["mean"], y, marker=marker_of(keys), color=colour, markersize=7)
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


def _legend(figure: Figure, axes: np.ndarray, columns: int = 4) -> None:
    """One legend below all panels, each name once."""
    found: dict[str, Any] = {}
    for ax in axes.ravel():
        handles, labels = ax.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            found.setdefault(label, handle)
    legend_below(figure, list(found.values()), list(found), columns=columns)


def _line_label(keys: dict[str, Any], setting: str) -> str:
    if setting == "T":
        return label_of(keys)
    known = {**keys, setting: 1}
    said = sampling_label(known).split(", ")
    kept = [part for part in said if not part.endswith("step" if setting == "steps" else "draw")]
    return f"{label_of(keys)} ({', '.join(kept)})"
