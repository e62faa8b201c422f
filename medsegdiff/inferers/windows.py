"""Overlapping windows over an image, and the weights that blend what is predicted in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.utils import fall_back_tuple
from torch.nn import functional as F

from medsegdiff.errors import SpecError

MODES = ("constant", "gaussian")

Box = tuple[slice, ...]
"""One slice for each spatial axis."""


class WindowGrid:
    """Windows that lie over an image as those of MONAI's `SlidingWindowInferer` do.

    An image smaller than a window is padded with zeros on both sides of the axis; windows and `region` count from the
    beginning of the padded image.

    Args:
        image_size: *S of the image.
        roi_size: of a window, one number for all axes or one for each; 0 or less means the whole axis.
        overlap: share of a window that the next one covers too, in [0, 1); one number or one for each axis.
        box: the part of the image that is of interest: windows that do not meet it are left out. None for all.

    Attributes:
        size: of the padded image.
        roi_size: of a window.
        windows: the slices of each window.
        region: the box that the windows cover together; None where there are none.

    Raises:
        SpecError: sizes or overlaps that do not fit the image's axes.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        roi_size: Sequence[int] | int,
        *,
        overlap: Sequence[float] | float = 0.25,
        box: Box | None = None,
    ) -> None:
        self.image_size = tuple(image_size)
        axes = len(self.image_size)
        self.roi_size = tuple(fall_back_tuple(per_axis(roi_size, axes, "roi_size"), self.image_size))
        self.size = tuple(max(n, window) for n, window in zip(self.image_size, self.roi_size, strict=True))
        self._before = [(padded - n) // 2 for padded, n in zip(self.size, self.image_size, strict=True)]
        intervals = [
            window if window == n else max(int(window * (1 - share)), 1)
            for window, n, share in zip(self.roi_size, self.size, check_overlap(overlap, axes), strict=True)
        ]
        box = box or tuple(slice(0, n) for n in self.image_size)
        wanted = [
            slice(part.start + before, part.stop + before) for part, before in zip(box, self._before, strict=True)
        ]
        self.windows: list[Box] = [
            tuple(window)
            for window in dense_patch_slices(self.size, self.roi_size, intervals)
            if all(a.start < b.stop and b.start < a.stop for a, b in zip(window, wanted, strict=True))
        ]
        # Windows that meet a box make a box again, without holes.
        self.region: Box | None = None
        if self.windows:
            self.region = tuple(
                slice(min(s.start for s in on), max(s.stop for s in on)) for on in zip(*self.windows, strict=True)
            )

    @property
    def is_padded(self) -> bool:
        """Whether the image is smaller than a window along any axis."""
        return self.size != self.image_size

    def pad(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, channels, *S) on the padded grid; without a copy where nothing is to be added."""
        if not self.is_padded:
            return image
        amounts = zip(self._before, self.size, self.image_size, strict=True)
        pairs = [(before, padded - n - before) for before, padded, n in amounts]
        return F.pad(image, [n for pair in reversed(pairs) for n in pair])  # F.pad counts axes from the last

    def crop(self, padded: torch.Tensor) -> torch.Tensor:
        """What belongs to the image, (…, *S), out of what is on the padded grid; a view."""
        sizes = zip(self._before, self.image_size, strict=True)
        inside: tuple[Any, ...] = (..., *(slice(before, before + n) for before, n in sizes))
        return padded[inside]

    def fill_outside(self, x: torch.Tensor, value: torch.Tensor) -> None:
        """Set x (B, C, *S), on the padded grid, to `value` (C, 1, …) wherever there is no window."""
        if self.region is None:
            x[...] = value
            return
        for axis, part in enumerate(self.region, start=2):
            for beyond in (slice(0, part.start), slice(part.stop, None)):
                x[(slice(None),) * axis + (beyond,)] = value


class WindowBlend:
    """The weights with which overlapping windows are blended, summing to one at every voxel that has a window.

    Args:
        grid: the windows.
        mode: "constant" gives all voxels of a window the same weight, "gaussian" less to those near its border, as
            MONAI does.
        device: where what is blended lies.
    """

    def __init__(self, grid: WindowGrid, mode: str, device: torch.device) -> None:
        self._weights = compute_importance_map(grid.roi_size, mode=mode, device=device)  # (*roi)
        self._total = torch.zeros(grid.size, device=device)  # (*S)
        for window in grid.windows:
            self._total[window] += self._weights

    def add(self, blended: torch.Tensor, window: Box, part: torch.Tensor) -> None:
        """Add the share of one window, `part` (B, C, *roi), to `blended` (B, C, *S)."""
        # A weight divided by itself is 1 exactly: where a voxel has one window, that window's value is kept.
        share = self._weights / self._total[window]  # (*roi)
        place: tuple[Any, ...] = (..., *window)
        blended[place].addcmul_(part, share)


def check_mode(mode: str) -> str:
    """The mode of blending, in lower case.

    Raises:
        SpecError: there is none of that name.
    """
    if str(mode).lower() not in MODES:
        msg = f"there is no blending {mode!r}: use one of {', '.join(MODES)}"
        raise SpecError(msg)
    return str(mode).lower()


def check_overlap(overlap: Sequence[float] | float, axes: int | None = None) -> list[float]:
    """The overlap along each axis.

    Raises:
        SpecError: a share outside [0, 1), or not one for each axis.
    """
    if isinstance(overlap, (int, float)):
        shares = [overlap] * (axes or 1)
    else:
        shares = list(overlap) if axes is None else per_axis(overlap, axes, "overlap")
    for share in shares:
        if not 0 <= share < 1:
            msg = f"overlap is {share}; give a share of the window, from 0 to less than 1"
            raise SpecError(msg)
    return shares


def per_axis(values: Sequence[float] | float, axes: int, name: str) -> list[float]:
    """One value for each axis, from one for all or one for each.

    Raises:
        SpecError: another number of values.
    """
    given = [values] * axes if isinstance(values, (int, float)) else list(values)
    if len(given) != axes:
        msg = f"{name} is {list(given)}, for {len(given)} axes; the image has {axes}: give one number, or {axes}"
        raise SpecError(msg)
    return given
