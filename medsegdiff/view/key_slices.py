"""The slices of a case in which most of the foreground lies, as one picture."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.figures import INK, new_figure, save_png, styled
from medsegdiff.notice import RESEARCH_ONLY
from medsegdiff.view.shown_case import ShownCase, ShownClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The axis that a plane lies across, its name, and the ends of its two others: left, right, bottom, top of the picture.
_PLANES = ((2, "axial", "RLPA"), (1, "coronal", "RLIS"), (0, "sagittal", "APIS"))
# In inches.
_WIDTH, _MOST_HEIGHT = 8.0, 5.0  # of all planes beside each other, of one
_LEGEND = 1.8
_ROW_OF_WORDS = 0.15
_CHARACTERS, _CHARACTERS_OF_LEGEND = 150, 24  # of such a row


def key_slices(case: ShownCase, *, description: str) -> bytes:
    """A PNG of the first channel, with the outlines of the classes, and of the uncertainty where there is one.

    Volumes are shown in the three planes, at the slice across each that holds most foreground (the middle where there
    is none), in true proportions and as radiologists look: the patient's right on the left.

    Args:
        case: what to show.
        description: for the text of the PNG.
    """
    planes = _PLANES[:1] if case.is_picture else [plane for plane in _PLANES if _extends(case, plane[0])]
    layers = 2 if case.uncertainty is None else 3
    words = _words(case)
    sizes = [_size(case, axis) for axis, _, _ in planes]
    columns = sizes if len(planes) > 1 else sizes * layers
    rows = layers if len(planes) > 1 else 1
    highest = max(height for _, height in sizes)
    scale = min(_WIDTH / sum(width for width, _ in columns), _MOST_HEIGHT / highest)
    with styled():
        figure = new_figure(_WIDTH + _LEGEND, highest * scale * rows + _ROW_OF_WORDS * (len(words) + 5))
        axes = figure.subplots(rows, len(columns), squeeze=False, width_ratios=[width for width, _ in columns])
        for number, ax in enumerate(axes.T.ravel()):
            axis, plane, ends = planes[number // layers]
            index = fullest_slice(case.label, axis)
            _show(ax, case, axis, index, layer=number % layers)
            ax.set_anchor("N")
            ax.set_axis_off()
            if not case.is_picture:
                _mark(ax, ends)
                if number % layers == 0:
                    place = f"{plane}, {index + 1} of {case.label.shape[axis]}"
                    ax.set_title(place, fontsize=8, fontweight="normal")
        figure.suptitle(_plain(case.name), fontsize=11)
        if not case.is_empty:
            _legend(figure, case)
        figure.supxlabel(_plain("\n".join(words)), fontsize=7, color=INK, x=0.01, ha="left")
    buffer = io.BytesIO()
    save_png(figure, buffer, description=description)
    return buffer.getvalue()


def fullest_slice(label: NDArray[Any], axis: int) -> int:
    """The slice across an axis with most voxels of any class; the middle one where there are none."""
    counts = np.count_nonzero(label, axis=tuple(other for other in range(3) if other != axis))
    return int(np.argmax(counts)) if counts.any() else len(counts) // 2


def _extends(case: ShownCase, axis: int) -> bool:
    """Whether the plane across an axis is more than a line."""
    return min(size for other, size in enumerate(case.label.shape) if other != axis) > 1


def _plane(array: NDArray[Any], axis: int, index: int, *, is_picture: bool) -> NDArray[Any]:
    """A slice as rows from the bottom up: the patient's right, or front, on the left."""
    plane = np.take(array, index, axis=axis)
    return np.swapaxes(plane if is_picture else plane[::-1], 0, 1)


def _aspect(case: ShownCase, axis: int) -> float:
    """Height of a voxel relative to its width."""
    width, height = (step for other, step in enumerate(case.spacing) if other != axis)
    return height / width


def _size(case: ShownCase, axis: int) -> tuple[float, float]:
    """Width and height of a plane in mm."""
    width, height = (case.label.shape[other] * case.spacing[other] for other in range(3) if other != axis)
    return width, height


def _show(ax: Axes, case: ShownCase, axis: int, index: int, *, layer: int) -> None:
    from matplotlib.colors import ListedColormap

    image, label = (
        _plane(array, axis, index, is_picture=case.is_picture)
        for array in (next(iter(case.channels.values())), case.label)
    )
    shown: dict[str, Any] = {"origin": "lower", "aspect": _aspect(case, axis), "interpolation": "nearest"}
    if image.ndim > 2:
        ax.imshow(image, **shown)
    else:
        low, high = np.percentile(image, (1, 99))
        ax.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), **shown)
    if layer == 1:
        colours = [_colour(one) for one in case.classes]
        ax.imshow(
            np.ma.masked_equal(label, 0),
            cmap=ListedColormap(colours),
            vmin=0.5,
            vmax=len(colours) + 0.5,
            alpha=0.35,
            **shown,
        )
        for number, colour in enumerate(colours, start=1):
            if (label == number).any() and not (label == number).all() and min(label.shape) > 1:
                ax.contour(label == number, levels=[0.5], colors=[colour], linewidths=1)
    if layer == 2 and case.uncertainty is not None:
        plane = _plane(case.uncertainty, axis, index, is_picture=case.is_picture)
        ax.imshow(plane, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(plane * 4, 0, 1), **shown)


def _mark(ax: Axes, ends: str) -> None:
    """Name the four sides."""
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.02, "center", "bottom"),
        (0.5, 0.98, "center", "top"),
    )
    for end, (x, y, horizontal, vertical) in zip(ends, places, strict=True):
        ax.text(
            x,
            y,
            end,
            transform=ax.transAxes,
            ha=horizontal,
            va=vertical,
            fontsize=8,
            color="white",
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "linewidth": 0},
        )


def _legend(figure: Figure, case: ShownCase) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_colour(one), label=textwrap.fill(_plain(f"{one.name}, {amount(one)}"), _CHARACTERS_OF_LEGEND))
        for one in case.classes
        if one.voxels
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=7, handlelength=1)


def _colour(one: ShownClass) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in one.rgb)
    return red, green, blue


def _plain(text: str) -> str:
    """A text that matplotlib takes for one, not for mathematics."""
    return text.replace("$", r"\$")


def amount(one: ShownClass) -> str:
    """How much there is of a class, in words."""
    return f"{one.voxels:,} pixels" if one.ml is None else f"{one.ml:,.2f} ml"


def _words(case: ShownCase) -> list[str]:
    """The lines below, none wider than the picture."""
    lines = [RESEARCH_ONLY]
    if case.is_empty:
        lines.append("No foreground was found.")
    if case.uncertainty is not None:
        lines.append("Uncertainty, shown last: the entropy of the class probabilities, from 0 (dark) to 1 (bright).")
    lines += [f"{name}: {text}" for name, text in case.facts.items()]
    return [part for line in lines for part in textwrap.wrap(line, _CHARACTERS)]
