"""How well the regions of the truth are covered by those of the prediction, in the plane or in space."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.errors import DataError


def weighted_coverage(prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Weighted coverage: for each region of the truth the best IoU that a region of the prediction has with it.

    The mean over the truth's regions is weighted by their area: sum over j of |t_j| max_i IoU(t_j, p_i), divided by the
    sum over j of |t_j| (Silberman, Sontag and Fergus, ECCV 2014; WCov of DarNet). Where truth and prediction are one
    region each it is their IoU. The release of SegDiff reports under this name what `area_ratio` gives.

    Without any region in the truth it is undefined, NaN; without any in the prediction alone it is 0.

    Args:
        prediction: instances (*S): 0 the background, every other number a region; `regions` makes them of a mask.
        truth: instances (*S) of the same shape.

    Returns:
        In [0, 1], or NaN.

    Raises:
        DataError: the shapes differ.
    """
    _check_shapes(prediction, truth)
    truth_ids, truth_areas = np.unique(truth[truth != 0], return_counts=True)  # (J,) each
    ids, areas = np.unique(prediction[prediction != 0], return_counts=True)  # (I,) each
    if not len(truth_ids):
        return math.nan
    both = (truth != 0) & (prediction != 0)
    row, column = np.searchsorted(truth_ids, truth[both]), np.searchsorted(ids, prediction[both])  # (pixels,) each
    # Only pairs of regions that meet: a full matrix of thousands of cells against thousands would be mostly zeros.
    pairs, shared = np.unique(row * len(ids) + column, return_counts=True)  # (M,) each
    row, column = pairs // max(len(ids), 1), pairs % max(len(ids), 1)
    best = np.zeros(len(truth_ids))
    np.maximum.at(best, row, shared / (truth_areas[row] + areas[column] - shared))
    return float((best * truth_areas).sum() / truth_areas.sum())


def area_ratio(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The smaller of the areas of two masks (*S) divided by the larger, wherever they lie.

    What the release of SegDiff computes as weighted coverage; two masks that do not even touch can have 1. NaN where
    both are empty, 0 where one is.

    Raises:
        DataError: the shapes differ.
    """
    _check_shapes(prediction, truth)
    smaller, larger = sorted((np.count_nonzero(prediction), np.count_nonzero(truth)))
    return smaller / larger if larger else math.nan


def regions(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """The connected regions of a mask (*S) as instances 1 to N; pixels that touch at a corner belong together."""
    from skimage.measure import label

    return label(mask, connectivity=mask.ndim)


def _check_shapes(prediction: NDArray[Any], truth: NDArray[Any]) -> None:
    if prediction.shape != truth.shape:
        msg = f"got a prediction of shape {prediction.shape} and a truth of {truth.shape}; bring both onto one grid"
        raise DataError(msg)
