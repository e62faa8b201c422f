"""Pictures of single cases: image, truth, prediction, signed error, uncertainty, and the sampling steps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsegdiff.compare.analysis.drawing import CLASS_COLOURS, OVER, UNDER, WIDTH, WRONG, label_of, typeset
from medsegdiff.errors import DataError, one_line
from medsegdiff.figures import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

_COLUMNS = ("image", "truth", "prediction", "error", "uncertainty")
_AXES = "xyz"
_MARGIN = 6
"""Voxels around the structures that a picture shows."""
_MOST_STEPS = 6
_FEW_ROWS = 3
_MOST_METHODS = 5
_MOST_NAMES = 3
"""Classes that a line of a legend has room for beside the kinds of error."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One case as one method segments it.

    Attributes:
        image: (*S), 2-D or 3-D.
        truth: label map (*S), 0 the background.
        prediction: label map (*S).
        uncertainty: entropy (*S), from 0 to 1.
        steps: label maps after each sampling step (N, *S).
        spacing: of the voxels along each axis, in mm.
        method: its name.
        options: the study's name of the variant.
        case: its name.
        rank: such as "best", "median" or "worst".
    """

    image: NDArray[Any]
    truth: NDArray[Any]
    prediction: NDArray[Any]
    uncertainty: NDArray[Any]
    steps: NDArray[Any]
    spacing: tuple[float, ...]
    method: str
    options: str
    case: str
    rank: str

    @property
    def dice(self) -> float:
        """Mean Dice over the classes of truth or prediction; NaN without any."""
        scores = []
        for label in np.union1d(np.unique(self.truth), np.unique(self.prediction)):
            if label:
                p, t = self.prediction == label, self.truth == label
                scores.append(2 * np.count_nonzero(p & t) / (np.count_nonzero(p) + np.count_nonzero(t)))
        return float(np.mean(scores)) if scores else float("nan")

    @property
    def title(self) -> str:
        """For captions."""
        return f"{label_of(vars(self))}, Dice {self.dice:.3f}"


def read_snapshots(folder: Path) -> list[Snapshot]:
    """Read the cases that a study kept, from `*.npz` of a folder, method by method for each case.

    Of the files of a case, all but the first may leave out image and truth, as published studies do.

    Raises:
        DataError: as for `read_snapshot`.
    """
    snapshots: list[Snapshot] = []
    for path in sorted(folder.glob("*.npz")):
        snapshots.append(read_snapshot(path, like=snapshots[-1] if snapshots else None))
    return snapshots


def read_snapshot(path: Path, *, like: Snapshot | None = None) -> Snapshot:
    """Read a case that a study kept, `pictures/*.npz`.

    Args:
        path: of the file.
        like: where the file leaves out image and truth, they are taken from here if it is of the same case.

    Raises:
        DataError: it cannot be read, or arrays are missing or do not fit together.
    """
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
        if like is not None and like.case == str(found["case"]):
            found = {"image": like.image, "truth": like.truth, **found}
        image, truth = np.squeeze(found["image"]), found["truth"]
        snapshot = Snapshot(
            image=image,
            truth=truth,
            prediction=found["prediction"],
            uncertainty=found["entropy"],
            steps=found["steps"],
            spacing=tuple(float(step) for step in found["spacing"]),
            **{name: str(found[name]) for name in ("method", "options", "case", "rank")},
        )
    except (OSError, ValueError, KeyError) as error:
        msg = f"{path} is no picture of a case ({one_line(error)}); run the comparison again to write it anew"
        raise DataError(msg) from error
    shapes = {a.shape for a in (image, truth, snapshot.prediction, snapshot.uncertainty)} | {snapshot.steps.shape[1:]}
    if len(shapes) != 1 or truth.ndim not in (2, 3) or len(snapshot.spacing) != truth.ndim:
        msg = f"{path} holds arrays of shapes {sorted(shapes)}; run the comparison again to write it anew"
        raise DataError(msg)
    return snapshot


def class_names(cases: pd.DataFrame, snapshot: Snapshot) -> dict[int, str]:
    """The names of a case's classes by their labels; none where the table measures unions of classes instead."""
    columns = ["label", "class_name", "truth_voxels"]
    if not set(columns) <= set(cases):
        return {}
    rows = cases.loc[cases["case"] == snapshot.case, columns].drop_duplicates("label")
    known = all((snapshot.truth == row.label).sum() == row.truth_voxels for row in rows.itertuples())
    return {int(row.label): str(row.class_name) for row in rows.itertuples()} if known else {}


def overview_figure(snapshot: Snapshot, names: Mapping[int, str] | None = None) -> Figure:
    """Image, truth, prediction, signed error and uncertainty: of a volume in three planes, where the truth has most.

    Args:
        snapshot: what to show.
        names: of the classes, by their labels.
    """
    planes = _planes(snapshot.truth)
    with styled():
        windows = [_window(snapshot, axis, place) for axis, place in planes]
        heights = [_height(view.truth, view.spacing) for view in windows]
        figure = new_figure(WIDTH, WIDTH / len(_COLUMNS) * sum(heights) + 0.55)
        axes = figure.subplots(len(planes), len(_COLUMNS), squeeze=False, height_ratios=heights)
        for row, (axis, place), view in zip(axes, planes, windows, strict=True):
            _show_image(row[0], view)
            _show_labels(row[1], view, view.truth)
            _show_labels(row[2], view, view.prediction)
            _show_error(row[3], view)
            shown = row[4].imshow(view.uncertainty.T, origin="lower", cmap="magma", vmin=0, vmax=1, aspect=view.aspect)
            if snapshot.truth.ndim == 3:
                row[0].set_ylabel(f"{_AXES[axis]} = {place}", fontsize=8)
        for ax, name in zip(axes[0], _COLUMNS, strict=True):
            ax.set_title(name, fontsize=8.5)
        _clean(axes)
        bar = figure.colorbar(shown, ax=axes[:, 4], shrink=0.6, aspect=30, ticks=[0, 0.5, 1])
        bar.set_label("entropy", fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
        bar.outline.set_visible(False)
        _legend(figure, names or {})
    return figure


def comparison_figure(snapshots: Sequence[Snapshot]) -> Figure:
    """The errors of several methods in one case, in the plane where the truth has most."""
    axis, place = _planes(snapshots[0].truth)[0]
    columns = min(_MOST_METHODS, len(snapshots) + 1)
    lines = -(-(len(snapshots) + 1) // columns)
    with styled():
        views = [_window(snapshot, axis, place, around=snapshots) for snapshot in snapshots]
        labels = ["\n".join(textwrap.wrap(label_of(vars(snapshot)), 20)) for snapshot in snapshots]
        title = 0.13 * (1 + max(label.count("\n") + 1 for label in labels)) + 0.1
        height = WIDTH / _MOST_METHODS * _height(views[0].truth, views[0].spacing) + title
        # Wide enough for the legend, however few there are.
        columns = max(columns, 4)
        figure = new_figure(WIDTH * columns / _MOST_METHODS, lines * height + 0.45)
        axes = figure.subplots(lines, columns, squeeze=False)
        first, *others = axes.ravel()
        _show_labels(first, views[0], views[0].truth)
        first.set_title("truth", fontsize=8)
        for ax, snapshot, view, label in zip(others, snapshots, views, labels, strict=False):
            _show_error(ax, view)
            ax.set_title(f"{typeset(label)}\n{snapshot.dice:.3f}", fontsize=7.5)
        for ax in others[len(snapshots) :]:
            ax.set_visible(False)
        _clean(axes)
        _legend(figure, {})
    return figure


def steps_figure(snapshots: Sequence[Snapshot]) -> Figure | None:
    """The error after each sampling step, a row for each method that samples in several; None where none does.

    Of more than six steps, six at equal distances are shown, the first and the last among them.
    """
    rows = [snapshot for snapshot in snapshots if len(snapshot.steps) > 1]
    if not rows:
        return None
    axis, place = _planes(rows[0].truth)[0]
    most = min(max(len(snapshot.steps) for snapshot in rows), _MOST_STEPS)
    columns = max(most, 4)
    with styled():
        shape = _window(rows[0], axis, place, around=snapshots)
        # Many methods in full width would fill pages.
        width = WIDTH if len(rows) <= _FEW_ROWS else 0.65 * WIDTH
        # A little less than a column is wide, since labels and gaps take their part.
        height = 0.85 * width / columns * _height(shape.truth, shape.spacing) + 0.08
        figure = new_figure(width, height * len(rows) + 0.65)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        above: dict[int, int] = {}
        for line, snapshot in zip(axes, rows, strict=True):
            count = len(snapshot.steps)
            shown = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
            for column, (ax, step) in enumerate(zip(line, shown, strict=False)):
                _show_error(ax, _window(snapshot, axis, place, prediction=snapshot.steps[step], around=snapshots))
                if above.get(column) != step:
                    ax.set_title(f"step {step + 1}", fontsize=7.5)
                above[column] = step
            for ax in line[len(shown) :]:
                ax.set_visible(False)
            line[0].set_ylabel(typeset("\n".join(textwrap.wrap(label_of(vars(snapshot)), 18))), fontsize=7.5)
        _clean(axes)
        _legend(figure, {})
    return figure


@dataclass(frozen=True, eq=False)
class _View:
    """A plane of a snapshot, cropped to what is of interest: all (X, Y)."""

    image: NDArray[Any]
    truth: NDArray[Any]
    prediction: NDArray[Any]
    uncertainty: NDArray[Any]
    spacing: tuple[float, float]
    classes: int

    @property
    def aspect(self) -> float:
        return self.spacing[1] / self.spacing[0]


def _planes(truth: NDArray[Any]) -> list[tuple[int, int]]:
    """Axis and place of the planes to show, the one with most truth first; one of no axis in 2-D."""
    if truth.ndim == 2:
        return [(-1, 0)]
    counts = [(truth > 0).sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    places = [(axis, int(count.argmax()) if count.any() else len(count) // 2) for axis, count in enumerate(counts)]
    return sorted(places, key=lambda found: (-int(counts[found[0]].max()), found[0]))


def _window(
    snapshot: Snapshot,
    axis: int,
    place: int,
    *,
    prediction: NDArray[Any] | None = None,
    around: Sequence[Snapshot] = (),
) -> _View:
    arrays = [snapshot.image, snapshot.truth, snapshot.prediction, snapshot.uncertainty]
    arrays += [] if prediction is None else [prediction]
    # All pictures of a case are cut alike, to what any of them calls a structure.
    seen = _structures(around or [snapshot])
    spacing = snapshot.spacing
    if axis >= 0:
        arrays = [np.take(array, place, axis=axis) for array in arrays]
        seen = np.take(seen, place, axis=axis)
        spacing = tuple(step for number, step in enumerate(spacing) if number != axis)
    box = _box(seen)
    image, truth, own, uncertainty, *other = (array[box] for array in arrays)
    return _View(
        image=image.astype(np.float32),
        truth=truth,
        prediction=other[0] if other else own,
        uncertainty=uncertainty.astype(np.float32),
        spacing=(spacing[0], spacing[1]),
        classes=int(max(snapshot.truth.max(), snapshot.prediction.max(), 1)),
    )


def shown_part(snapshots: Sequence[Snapshot]) -> tuple[slice, ...]:
    """The part of the grid outside of which no picture of a case looks, given all methods' snapshots of it."""
    return _box(_structures(snapshots))


def _structures(snapshots: Sequence[Snapshot]) -> NDArray[np.bool_]:
    """Where (*S) the truth or any of the predictions of a case holds a structure."""
    found: NDArray[np.bool_] = np.any([(one.prediction > 0) | (one.truth > 0) for one in snapshots], axis=0)
    return found


def _box(seen: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box around what is seen, with a margin; everything where nothing is."""
    found = np.argwhere(seen)
    if not len(found):
        return (slice(None),) * seen.ndim
    low, high = np.maximum(found.min(axis=0) - _MARGIN, 0), found.max(axis=0) + _MARGIN + 1
    return tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))


def _show_image(ax: Axes, view: _View) -> None:
    low, high = np.percentile(view.image, (1, 99))
    ax.imshow(view.image.T, origin="lower", cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=view.aspect)


def _show_labels(ax: Axes, view: _View, labels: NDArray[Any]) -> None:
    _show_image(ax, view)
    shown = np.ma.masked_equal(labels.T, 0)
    ax.imshow(
        shown,
        origin="lower",
        cmap=_colours(view.classes),
        vmin=0.5,
        vmax=view.classes + 0.5,
        alpha=0.75,
        interpolation="nearest",
        aspect=view.aspect,
    )


def _show_error(ax: Axes, view: _View) -> None:
    from matplotlib.colors import ListedColormap

    _show_image(ax, view)
    error = signed_error(view.prediction, view.truth)
    ax.imshow(
        np.ma.masked_equal(error.T, 0),
        origin="lower",
        cmap=ListedColormap([UNDER, OVER, WRONG]),
        vmin=1,
        vmax=3,
        interpolation="nearest",
        aspect=view.aspect,
    )
    if (view.truth > 0).any() and not (view.truth > 0).all():
        ax.contour((view.truth > 0).T, levels=[0.5], colors="white", linewidths=0.7)


def signed_error(prediction: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.uint8]:
    """Kind of error (*S): 0 none, 1 missed, 2 predicted where the truth has nothing, 3 one structure for another."""
    p, t = prediction > 0, truth > 0
    kinds = np.select([t & ~p, p & ~t, p & t & (prediction != truth)], [1, 2, 3], default=0)
    return kinds.astype(np.uint8)


def _legend(figure: Figure, names: Mapping[int, str]) -> None:
    """What the colours of errors, and of the classes in `names`, mean."""
    from matplotlib.patches import Patch

    meanings = {name: CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)] for label, name in sorted(names.items())}
    if len(meanings) > _MOST_NAMES:
        meanings = {}
    meanings |= {"missed": UNDER, "too much": OVER, "wrong structure (white line: truth)": WRONG}
    handles = [Patch(color=colour, label=name) for name, colour in meanings.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, handlelength=1, columnspacing=1.2)


def _clean(axes: NDArray[Any]) -> None:
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)


def _height(plane: NDArray[Any], spacing: tuple[float, float]) -> float:
    """Height of a shown plane (X, Y) relative to its width, kept from extremes."""
    return float(np.clip(plane.shape[1] * spacing[1] / (plane.shape[0] * spacing[0]), 0.4, 2.0))


def _colours(classes: int) -> ListedColormap:
    from matplotlib.colors import ListedColormap

    return ListedColormap([CLASS_COLOURS[k % len(CLASS_COLOURS)] for k in range(classes)])
