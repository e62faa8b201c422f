"""Volumes of a size that a browser bears."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.view.shown_case import ShownCase

MOST_VOXELS = 2**24
"""Of all channels together: 256×256×256 of one."""


def reduction(shape: tuple[int, int, int], spacing: tuple[float, float, float], most: int) -> tuple[int, int, int]:
    """How many voxels become one along each axis, so that `most` at most are left, as cubic as can be."""
    factors = [1, 1, 1]
    while np.prod([size // factor for size, factor in zip(shape, factors, strict=True)]) > most:
        steps = [
            step * factor if factor < size else np.inf
            for step, factor, size in zip(spacing, factors, shape, strict=True)
        ]
        factors[int(np.argmin(steps))] += 1
    return factors[0], factors[1], factors[2]


def reduced(case: ShownCase, most: int = MOST_VOXELS) -> tuple[ShownCase, tuple[int, int, int]]:
    """The case with so many voxels at most, and how many became one along each axis.

    A voxel of the image is the mean of those that it stands for, one of the label map or of the uncertainty that of
    their middle; what does not fill a voxel at the far sides is left out.
    """
    shape = case.label.shape[0], case.label.shape[1], case.label.shape[2]
    factors = reduction(shape, case.spacing, most // len(case.channels))
    if max(factors) == 1:
        return case, factors
    kept = tuple(slice(size // factor * factor) for size, factor in zip(shape, factors, strict=True))
    middle = tuple(slice(factor // 2, None, factor) for factor in factors)
    affine = case.affine.copy()
    affine[:3, 3] += case.affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    smaller = replace(
        case,
        channels={name: _means(array[kept], factors) for name, array in case.channels.items()},
        label=case.label[kept][middle],
        uncertainty=None if case.uncertainty is None else case.uncertainty[kept][middle],
        affine=affine,
    )
    return smaller, factors


def _means(array: NDArray[Any], factors: tuple[int, int, int]) -> NDArray[Any]:
    from skimage.measure import block_reduce

    means = block_reduce(array, (*factors, *[1] * (array.ndim - 3)), np.mean)
    return means.astype(np.float32) if array.dtype.kind == "f" else np.rint(means).astype(array.dtype)
