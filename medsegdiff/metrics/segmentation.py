"""Dice, HD95, NSD, IoU, precision and recall of one case, class by class, in millimetres; outlines and regions in 2-D.

The first six come from MONAI, one binary mask a class, the background left out. The definitions, for the masks P
(prediction) and T (truth) of a class:

* **dice** 2|P∩T| / (|P|+|T|), **iou** |P∩T| / |P∪T|, **precision** |P∩T| / |P|, **recall** |P∩T| / |T|, over voxels.
  Dice is the F1 of the papers on pictures, and the mean of iou over images their mIoU: of the foreground alone.
* The *surface* of a mask is its voxels that have a face neighbour outside of the mask; beyond the edge of the image
  counts as outside. Distances run between the centres of surface voxels, exact and Euclidean, in mm.
* **hd95** the larger of two numbers: the 95th percentile (linear interpolation) of the distances from the surface of P
  to that of T, and of those from T to P. Some packages pool both sets before they take the percentile, which gives
  less where the two differ.
* **nsd** normalised surface Dice: the share of the voxels of both surfaces that lie within `nsd_tolerance` mm of the
  other surface (arXiv 2111.05408). Each surface voxel counts once, whatever the area of its faces. A distance within
  one part in 10 000 of the tolerance is inside, because the spacing in a header is rounded: at 1 mm voxels and 1 mm
  tolerance a spacing of 1.0000001 would otherwise turn a perfect score into a poor one.
* In 2-D only, in pixels: **boundary_f** the boundary F-measure averaged over tolerances of 1 to 5 pixels,
  **weighted_coverage** the best IoU of each connected region of T with one of P, weighted by area, and **area_ratio**
  min(|P|, |T|) / max(|P|, |T|), which the release of SegDiff calls weighted coverage. See `medsegdiff.metrics.boundary`
  and `medsegdiff.metrics.coverage`.

A picture without a scale has a spacing of 1: read pixels where it says mm.

The rule for empty masks; a structure that was missed never drops out of a mean:

======== ===== ========== ========================= ========== =========================
status   truth prediction recall, weighted_coverage the others hd95
======== ===== ========== ========================= ========== =========================
present  some  some       as defined                as defined as defined
missed   some  none       0                         0          the diagonal of the image
spurious none  some       NaN                       0          the diagonal of the image
absent   none  none       NaN                       NaN        NaN
======== ===== ========== ========================= ========== =========================

NaN means undefined: left out of means, and counted beside them. The diagonal is sqrt(Σ (n_i · spacing_i)²) over the
axes of the grid that was given, in mm, an upper bound of every distance in it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.metrics.confusion_matrix import compute_confusion_matrix_metric, get_confusion_matrix
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.meaniou import compute_iou
from monai.metrics.surface_dice import compute_surface_dice
from monai.utils.type_conversion import convert_to_numpy
from scipy import ndimage

from medsegdiff.errors import DataError, SpecError
from medsegdiff.metrics.boundary import boundary_f
from medsegdiff.metrics.coverage import area_ratio, regions, weighted_coverage

METRICS = ("dice", "hd95", "nsd", "iou", "precision", "recall")
METRICS_2D = ("boundary_f", "weighted_coverage", "area_ratio")

Status = Literal["present", "missed", "spurious", "absent"]

_NSD_RELATIVE_SLACK = 1e-4
_OVERLAP_MISSED = {"dice": 0.0, "nsd": 0.0, "iou": 0.0, "precision": 0.0, "recall": 0.0}


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """The metrics of one foreground class in one case; see the module for definitions and the rule for empty masks.

    Attributes:
        case: name of the case.
        label: value of the class in the label map, from 1.
        class_name: name of the class.
        status: which of the two masks hold any voxel.
        dice: in [0, 1], or NaN.
        hd95: in mm, or NaN.
        nsd: in [0, 1], or NaN.
        iou: in [0, 1], or NaN.
        precision: in [0, 1], or NaN.
        recall: in [0, 1], or NaN.
        boundary_f: in [0, 1], or NaN; None in 3-D.
        weighted_coverage: in [0, 1], or NaN; None in 3-D.
        area_ratio: in [0, 1], or NaN; None in 3-D.
        prediction_voxels: number of voxels of the class in the prediction.
        truth_voxels: number of voxels of the class in the truth.
        prediction_volume: mm³ of the class in the prediction (mm² in 2-D).
        truth_volume: mm³ of the class in the truth (mm² in 2-D).
    """

    case: str
    label: int
    class_name: str
    status: Status
    dice: float
    hd95: float
    nsd: float
    iou: float
    precision: float
    recall: float
    boundary_f: float | None = None
    weighted_coverage: float | None = None
    area_ratio: float | None = None
    prediction_voxels: int
    truth_voxels: int
    prediction_volume: float
    truth_volume: float


def case_metrics(
    prediction: np.ndarray | torch.Tensor,
    truth: np.ndarray | torch.Tensor,
    *,
    class_names: Sequence[str],
    spacing: Sequence[float],
    nsd_tolerance: float = 1.0,
    case: str = "",
) -> list[ClassMetrics]:
    """Measure one case: one row per foreground class, in the order of `class_names`.

    Args:
        prediction: label map (*S), 2-D or 3-D, whole numbers 0..K-1 of any dtype, 0 the background.
        truth: label map (*S) on the same grid.
        class_names: names of the K-1 foreground classes; `class_names[0]` is label 1.
        spacing: distance of neighbouring voxels along each axis of the arrays, in mm.
        nsd_tolerance: largest distance in mm at which a surface voxel still counts as right.
        case: name of the case, kept in the rows and named in errors.

    Raises:
        DataError: shapes differ, are not 2-D or 3-D or empty; values are no whole numbers or outside 0..K-1; the
            spacing has another length than the shape or is not positive.
        SpecError: no class, a class name twice, or a tolerance that is negative or not finite.
    """
    where = f"case {case}: " if case else ""
    _check_settings(class_names, nsd_tolerance)
    predicted = _label_map(prediction, len(class_names), f"{where}prediction")
    true = _label_map(truth, len(class_names), f"{where}truth")
    if predicted.shape != true.shape:
        msg = (
            f"{where}prediction has shape {predicted.shape} and truth has shape {true.shape}; "
            "bring both onto one grid before measuring"
        )
        raise DataError(msg)
    mm = _spacing(spacing, true.ndim, where)
    diagonal = math.hypot(*(n * s for n, s in zip(true.shape, mm, strict=True)))
    predicted_boxes = ndimage.find_objects(predicted, max_label=len(class_names))
    true_boxes = ndimage.find_objects(true, max_label=len(class_names))

    rows = []
    for label, (name, *boxes) in enumerate(zip(class_names, predicted_boxes, true_boxes, strict=True), start=1):
        # Outside of the box of both masks there is no surface and no overlap: cropping to it changes nothing but time.
        box = _joint_box(boxes)
        p, t = predicted[box] == label, true[box] == label
        n_p, n_t = int(np.count_nonzero(p)), int(np.count_nonzero(t))
        status = _status(n_p, n_t)
        values = _present(p, t, mm, nsd_tolerance) if status == "present" else _empty(status, diagonal)
        if true.ndim == 2:
            values |= _planar(predicted == label, true == label)
        rows.append(
            ClassMetrics(
                case=case,
                label=label,
                class_name=name,
                status=status,
                prediction_voxels=n_p,
                truth_voxels=n_t,
                prediction_volume=n_p * math.prod(mm),
                truth_volume=n_t * math.prod(mm),
                **values,
            )
        )
    return rows


def _present(p: np.ndarray, t: np.ndarray, spacing: list[float], nsd_tolerance: float) -> dict[str, float]:
    """`METRICS` of two masks (*S) that both hold a voxel."""
    either = p | t
    # MONAI counts in float32, which is inexact above 2**24 voxels; true negatives enter none of the four overlap
    # metrics, so only voxels of either mask are counted. As uint8 because the sum of two bools is a bool.
    p_flat, t_flat = (torch.from_numpy(mask[either].astype(np.uint8))[None, None] for mask in (p, t))  # (1, 1, N)
    confusion = get_confusion_matrix(p_flat, t_flat)
    p_grid, t_grid = (torch.from_numpy(mask)[None, None] for mask in (p, t))  # (1, 1, *S)
    threshold = nsd_tolerance * (1 + _NSD_RELATIVE_SLACK)
    with _quiet_monai():
        hd95 = compute_hausdorff_distance(p_grid, t_grid, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(p_grid, t_grid, class_thresholds=[threshold], spacing=spacing)
    return {
        "dice": compute_dice(p_flat, t_flat).item(),
        "hd95": hd95.item(),
        "nsd": nsd.item(),
        "iou": compute_iou(p_flat, t_flat).item(),
        "precision": compute_confusion_matrix_metric("precision", confusion).item(),
        "recall": compute_confusion_matrix_metric("recall", confusion).item(),
    }


def _planar(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """The metrics of 2-D of two masks on the whole image, whose edge has no boundary."""
    return {
        "boundary_f": boundary_f(p, t),
        "weighted_coverage": weighted_coverage(regions(p), regions(t)),
        "area_ratio": area_ratio(p, t),
    }


def _empty(status: Status, diagonal: float) -> dict[str, float]:
    """`METRICS` where at least one of the masks is empty."""
    if status == "missed":
        return {**_OVERLAP_MISSED, "hd95": diagonal}
    if status == "spurious":
        return {**_OVERLAP_MISSED, "recall": math.nan, "hd95": diagonal}
    return dict.fromkeys(METRICS, math.nan)


def _status(prediction_voxels: int, truth_voxels: int) -> Status:
    if truth_voxels:
        return "present" if prediction_voxels else "missed"
    return "spurious" if prediction_voxels else "absent"


def _joint_box(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """The smallest box that holds all `boxes`; one of no voxels when there is none."""
    filled = [box for box in boxes if box is not None]
    if not filled:
        return (slice(0, 0),)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*filled, strict=True))


def _label_map(array: np.ndarray | torch.Tensor, n_foreground: int, what: str) -> np.ndarray:
    """`array` as a checked label map (*S) of a small unsigned dtype."""
    if isinstance(array, torch.Tensor) and array.dtype == torch.bfloat16:
        array = array.float()  # numpy has no bfloat16
    labels: np.ndarray = np.asarray(convert_to_numpy(array))
    if labels.ndim not in (2, 3) or 0 in labels.shape:
        msg = f"{what} has shape {labels.shape}; allowed is a 2-D or 3-D label map without channels and empty axes"
        raise DataError(msg)
    if labels.dtype.kind not in "buif":
        msg = f"{what} has dtype {labels.dtype}; a label map holds whole numbers 0 to {n_foreground}"
        raise DataError(msg)
    if labels.dtype.kind == "f" and (odd := labels[np.rint(labels) != labels]).size:
        msg = (
            f"{what} holds {odd.size} values that are no whole numbers, such as {odd[0]:g}; "
            "give a label map (threshold or argmax probabilities first)"
        )
        raise DataError(msg)
    if labels.min() < 0 or labels.max() > n_foreground:
        wrong = np.unique(labels[(labels < 0) | (labels > n_foreground)])
        listed = ", ".join(f"{value:g}" for value in wrong[:10].astype(float)) + (", …" if wrong.size > 10 else "")
        msg = f"{what} holds the label values {listed}; allowed are 0 to {n_foreground}: map them to the classes first"
        raise DataError(msg)
    return labels.astype(np.uint8 if n_foreground < 256 else np.int32)


def _spacing(spacing: Sequence[float], ndim: int, where: str) -> list[float]:
    # Floats all, since MONAI refuses a mixture of int and float.
    mm = [float(s) for s in spacing]
    if len(mm) != ndim or not all(math.isfinite(s) and s > 0 for s in mm):
        msg = f"{where}spacing is {mm}; allowed are {ndim} positive numbers in mm, one for each axis of the label maps"
        raise DataError(msg)
    return mm


def _check_settings(class_names: Sequence[str], nsd_tolerance: float) -> None:
    if isinstance(class_names, str) or not class_names or len(set(class_names)) != len(class_names):
        msg = f"class_names is {class_names!r}; give a list of different names, one for each foreground class"
        raise SpecError(msg)
    if not math.isfinite(nsd_tolerance) or nsd_tolerance < 0:
        msg = f"nsd_tolerance is {nsd_tolerance}; allowed is a number of mm from 0"
        raise SpecError(msg)


@contextmanager
def _quiet_monai() -> Iterator[None]:
    """Silence MONAI 1.5 and 1.6, which warn of a deprecated argument that they themselves pass on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*", category=FutureWarning)
        yield
