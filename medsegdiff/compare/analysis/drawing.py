"""How figures of a comparison look: one fixed colour a method, one type size, light files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.compare.analysis.frames import METHOD_ORDER, parts_of
from medsegdiff.figures import save_png
from medsegdiff.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours with a wine red of Paul Tol's, told apart with any colour blindness; the marker says the same.
COLOURS = dict(
    zip(
        METHOD_ORDER,
        ("#5f6368", "#e69f00", "#0072b2", "#56b4e9", "#cc79a7", "#882255", "#d55e00", "#009e73"),
        strict=True,
    )
)
MARKERS = dict(zip(METHOD_ORDER, "sDovP^X*", strict=True))
ENSEMBLE_COLOUR, OTHER_COLOUR = "#111111", "#8c6bb1"
OVER, UNDER, WRONG = "#d55e00", "#0072b2", "#cc79a7"
"""Predicted where the truth has nothing; missed; one structure taken for another."""
CLASS_COLOURS = ("#009e73", "#882255", "#e69f00", "#56b4e9", "#999933", "#0072b2", "#cc79a7", "#d55e00")
"""Those of errors come last: next to each other, a colour would mean two things."""
WIDTH = 7.2
"""Inches of a figure: half a page of a report."""

NAMES = {
    "recycling": "recycling",
    "recycling_next": "recycling from x_(t+1)",
    "self_conditioning": "self-conditioning",
    "self_conditioning_next": "self-conditioning from x_(t+1)",
    "segdiff": "SegDiff",
    "cdal": "cDAL",
}
"""What readers call a method; the others by their own names."""
INDEXED = re.compile(r"\bx_(?:\(([^)]+)\)|([Tt0])\b)")
"""A state of the sampling, such as x_T or x_(t+1)."""
TITLES = {"dice": "Dice", "hd95": "HD95", "iou": "IoU", "nsd": "NSD", "boundary_f": "Boundary F"}
_LEGEND_ROW = 0.2
_USUAL_ROWS = 2
"""Lines of a legend that a figure has room for: inches of one, and how many."""


def save_figure(figure: Figure, path: Path, *, colours: int = 255) -> Path:
    """Write a PNG, whole or not at all; see `save_png`.

    Raises:
        DataError: it cannot be written.
    """
    with written_whole(path, advice="choose a folder that can be written") as partial:
        save_png(figure, partial, colours=colours)
    return path


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str], *, columns: int) -> None:
    """One legend below all panels, in so many columns or as many as fit; many lines of it make the figure higher."""
    for ncols in range(min(columns, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * max(0, -(-len(labels) // ncols) - _USUAL_ROWS))


def metric_title(metric: str) -> str:
    """What readers call a metric, with its unit."""
    return f"{TITLES.get(metric, metric)}{', mm' * (metric == 'hd95')}"


def colour_of(keys: Mapping[str, Any]) -> str:
    """The colour of a method; its variants share it."""
    method = keys["method"]
    return ENSEMBLE_COLOUR if parts_of(method) else COLOURS.get(method, OTHER_COLOUR)


def line_styles(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What tells lines of one method, which share colour and marker, apart: dashes, then hollow markers."""
    drawn: Counter[str] = Counter()
    styles = []
    for keys in entries:
        method = keys["method"]
        dashes, hollow = ("-", "--", "-.", ":")[drawn[method] % 4], drawn[method] // 4 % 2
        styles.append({"linestyle": dashes, **({"markerfacecolor": "white"} if hollow else {})})
        drawn[method] += 1
    return styles


def marker_of(keys: Mapping[str, Any]) -> str:
    """The marker of a method."""
    return MARKERS.get(keys["method"], "p")


def label_of(keys: Mapping[str, Any], *, sampling: bool = False) -> str:
    """What a line of a report is called.

    Args:
        keys: with the columns of an entry.
        sampling: add how it was sampled.
    """
    method, options = keys["method"], keys.get("options") or ""
    if parts := parts_of(method):
        name = " + ".join(NAMES.get(part, part) for part in parts)
    else:
        # The name of a variant is the study's, and nearly always says of what it is one.
        name = options if method in options else ": ".join(filter(None, (NAMES.get(method, method), options)))
    return f"{name} ({sampling_label(keys)})" if sampling and keys.get("sampler") else name


def typeset(label: str) -> str:
    """A label as matplotlib draws it: the indices of x_T and x_(t+1) below the line, a dollar sign as one."""
    return INDEXED.sub(lambda found: f"$x_{{{found[1] or found[2]}}}$", label.replace("$", r"\$"))


def sampling_label(keys: Mapping[str, Any]) -> str:
    """How a method was sampled, such as "DDPM, 5 steps, 4 draws"."""
    if not keys.get("sampler"):
        return "one pass"
    steps, draws = int(keys["steps"]), int(keys["draws"])
    said = f"{str(keys['sampler']).upper()}, {steps} step{'s' * (steps > 1)}"
    return said if draws == 1 else f"{said}, {draws} draws"
