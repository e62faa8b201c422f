"""Figures of agreement and of uncertainty: Bland–Altman, reliability, sparsification, as in the module of figures."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from medsegdiff.compare.analysis.analyses import BASELINE, volume_pairs
from medsegdiff.compare.analysis.drawing import (
    CLASS_COLOURS,
    TITLES,
    WIDTH,
    colour_of,
    label_of,
    legend_below,
    line_styles,
    marker_of,
    typeset,
)
from medsegdiff.compare.analysis.figures import ROW
from medsegdiff.compare.analysis.frames import ENTRY, labelled, matches, paired_values, primary_entries, results
from medsegdiff.compare.analysis.statistics import Agreement, agreement
from medsegdiff.figures import FAINT, INK, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_MEASURES = {
    "ece": "calibration error (ECE)",
    "ause": "area under the\nsparsification\nerror curve (AUSE)",
    "ged": "generalised\nenergy distance\n(several draws)",
}


def volume_figure(cases: pd.DataFrame) -> Figure | None:
    """Bland–Altman plots of the volumes of each class, in cm³ (cm² in 2-D), a panel for each method."""
    panels: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    for keys, pairs in volume_pairs(cases):
        panels.setdefault(label_of(keys), []).append((keys["class_name"], pairs))
    if not panels:
        return None
    names = list(dict.fromkeys(name for classes in panels.values() for name, _ in classes))
    with styled():
        figure, axes = _grid(len(panels))
        for ax, (label, classes) in zip(axes, panels.items(), strict=False):
            for name, pairs in classes:
                predicted, true = pairs["prediction_volume"] / 1000, pairs["truth_volume"] / 1000
                colour = CLASS_COLOURS[names.index(name) % len(CLASS_COLOURS)]
                _bland_altman(ax, (predicted + true) / 2, agreement(predicted, true), predicted - true, colour, name)
            ax.set_title(_wrapped(label))
        figure.supxlabel("mean of prediction and truth, thousands of mm³ (mm² in 2-D)", fontsize=9)
        figure.supylabel("prediction − truth, same unit", fontsize=9)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    return figure


def score_figure(cases: pd.DataFrame, metric: str = "dice") -> Figure | None:
    """Bland–Altman plots of a metric, every method against the supervised one (Fu et al. 2023, Figure 5)."""
    rows, entries = results(cases), primary_entries(cases)
    base = labelled(rows, BASELINE)
    drawn = []
    for keys in entries.to_dict("records"):
        own = matches(rows, keys)
        if (keys["method"] == BASELINE and not keys["options"]) or base.empty:
            continue
        one, other = paired_values(own, base)
        if metric in one and one[metric].notna().any():
            drawn.append((keys, one[metric].to_numpy(), other[metric].to_numpy()))
    if not drawn:
        return None
    with styled():
        figure, axes = _grid(len(drawn))
        for ax, (keys, value, reference) in zip(axes, drawn, strict=False):
            limits = agreement(value, reference)
            _bland_altman(ax, (value + reference) / 2, limits, value - reference, colour_of(keys), "")
            ax.set_title(_wrapped(label_of(keys)))
        title = TITLES.get(metric, metric)
        figure.supxlabel(f"mean {title} of both", fontsize=9)
        figure.supylabel(f"{title}: method − {BASELINE}", fontsize=9)
    return figure


def reliability_figure(table: pd.DataFrame, cases: pd.DataFrame) -> Figure | None:
    """How often predictions of a confidence are right, and how many there are; the primary ways of sampling."""
    drawn = [
        (keys, rows[rows["count"] > 0].sort_values("bin_low"))
        for keys in primary_entries(cases).to_dict("records")
        if len(table) and len(rows := matches(table, keys))
    ]
    if not drawn:
        return None
    with styled():
        figure = new_figure(0.72 * WIDTH, 4.6)
        ax, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, linestyle="--")
        for (keys, rows), apart in zip(drawn, line_styles([keys for keys, _ in drawn]), strict=True):
            style = {"color": colour_of(keys), "marker": marker_of(keys), "markersize": 4, "linewidth": 1.4, **apart}
            ax.plot(rows["confidence"], rows["accuracy"], label=typeset(label_of(keys)), **style)
            below.plot(rows["confidence"], rows["count"] / rows["count"].sum(), **style)
        lowest = min(float(rows["confidence"].min()) for _, rows in drawn)
        ax.set_xlim(math.floor(10 * lowest) / 10, 1.01)
        ax.set_ylabel("share that is right")
        ax.set_title("above the line: too cautious; below: too sure", fontsize=8, fontweight="normal")
        below.set_yscale("log")
        below.minorticks_off()
        below.set_ylabel("share of voxels")
        below.set_xlabel("confidence of the predicted class")
        legend_below(figure, *ax.get_legend_handles_labels(), columns=3)
    return figure


def uncertainty_figure(table: pd.DataFrame, cases: pd.DataFrame) -> Figure | None:
    """Calibration error, area under the sparsification error curve and energy distance; less is better in each."""
    entries = primary_entries(cases).to_dict("records")
    measures = [name for name in _MEASURES if len(table) and (table["measure"] == name).any()]
    entries = [keys for keys in entries if len(table) and len(matches(table, keys))]
    if not measures or not entries:
        return None
    with styled():
        figure = new_figure(WIDTH, ROW * len(entries) + 1.1)
        axes = figure.subplots(1, len(measures), squeeze=False, sharey=True)[0]
        for ax, measure in zip(axes, measures, strict=True):
            for y, keys in enumerate(entries):
                for one in _of_measure(table[table["measure"] == measure], keys).to_dict("records"):
                    colour = colour_of(keys)
                    ax.plot([one["ci_low"], one["ci_high"]], [y, y], color=colour, linewidth=2.4)
                    ax.plot(one["mean"], y, marker=marker_of(keys), color=colour, markersize=6.5)
            ax.set_title(_MEASURES[measure])
            ax.set_xlim(left=0)
            ax.grid(visible=False, axis="y")
        axes[0].set_yticks(range(len(entries)), [typeset(label_of(keys)) for keys in entries])
        axes[0].invert_yaxis()
    return figure


def _of_measure(table: pd.DataFrame, keys: dict[str, Any]) -> pd.DataFrame:
    """The row of a way of sampling, or, since one draw has no energy distance, of the same in the fewest draws more."""
    own = matches(table, keys)
    more = matches(table, {column: keys[column] for column in ENTRY if column != "draws"})
    return own if len(own) else more.sort_values("draws").head(1)


def sparsification_figure(table: pd.DataFrame, cases: pd.DataFrame) -> Figure | None:
    """Error of what is left when the most uncertain voxels go first, against the oracle (dashed), averaged over cases.

    Args:
        table: `ENTRY`, "removed", "error" and "oracle", a row for each case or sampling and place of the curve.
        cases: the table of cases.
    """
    drawn = []
    for keys in primary_entries(cases).to_dict("records"):
        rows = matches(table, keys) if len(table) else table
        if len(rows):
            drawn.append((keys, rows.groupby("removed", sort=True)[["error", "oracle"]].mean().reset_index()))
    if not drawn:
        return None
    with styled():
        figure = new_figure(0.8 * WIDTH, 3.2)
        ax = figure.subplots()
        for keys, rows in drawn:
            ax.plot(rows["removed"], rows["error"], color=colour_of(keys), label=typeset(label_of(keys)))
            ax.plot(rows["removed"], rows["oracle"], color=colour_of(keys), linestyle="--", linewidth=0.9)
        ax.axhline(1, color=FAINT, linewidth=0.9)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("share of the most uncertain voxels removed")
        ax.set_ylabel("error of the rest, relative")
        legend_below(figure, *ax.get_legend_handles_labels(), columns=3)
    return figure


def _bland_altman(
    ax: Axes, x: np.ndarray | pd.Series, limits: Agreement, difference: np.ndarray | pd.Series, colour: str, name: str
) -> None:
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.scatter(x, difference, s=10, color=colour, alpha=0.6, linewidths=0, label=name or None)
    ax.axhline(limits.bias, color=colour, linewidth=1.4)
    for value in (limits.lower, limits.upper):
        ax.axhline(value, color=colour, linewidth=1, linestyle="--")
    if math.isfinite(limits.bias_low):
        ax.axhspan(limits.bias_low, limits.bias_high, color=colour, alpha=0.12, linewidth=0)


def _wrapped(label: str) -> str:
    return typeset("\n".join(textwrap.wrap(label, 24)))


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    """Panels in rows of three that share their axes; those too many are hidden."""
    columns = min(_COLUMNS, panels)
    lines = -(-panels // columns)
    figure = new_figure(WIDTH if columns > 1 else 0.6 * WIDTH, 1.9 * lines + 0.7)
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel())
    for ax in axes[panels:]:
        ax.set_visible(False)
    return figure, axes[:panels]
