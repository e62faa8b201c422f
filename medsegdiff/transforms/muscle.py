"""Cleaning the mask of a muscle in ultrasound images, as the recycling paper does before it measures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy
from numpy.typing import NDArray
from scipy import ndimage

from medsegdiff.errors import DataError, SpecError

Disks = Literal["euclidean", "matlab"]

EROSION, DILATION, OPENING = 3, 5, 10  # radii in pixels of the 480 x 512 images


class CleanMuscleMask(Transform):
    """Leaves one filled, smooth structure of a binary mask (Fu et al. 2023, section 5.2.1, after Marzola et al. 2021).

    In this order: holes are filled; an erosion with a disk of radius 3 pixels, a dilation with one of 5 and an opening
    with one of 10, so that the outline moves out by two pixels and what is narrower than some 16 pixels vanishes; of
    what is left one component stays (`main_component`); its holes are filled. Nothing may be left. Pixels beyond the
    edge of the image never change those within.

    Give it the mask on the grid of its file, in the order of `read_image` and of MONAI's `PILReader`: the first axis
    runs to the right, the second downwards. An image that was flipped or resampled on its way has another top and
    other pixels, so invert that first.

    Args:
        disks: "euclidean" for all pixels within the radius, as the paper says; "matlab" for the octagons of 5, 9 and
            19 pixels across that MATLAB's `strel` makes of these radii, which the paper's release works with.

    Raises:
        SpecError: other disks.
        DataError: while cleaning, a mask that is not (1, X, Y) or holds other values than 0 and 1.
    """

    def __init__(self, *, disks: Disks = "euclidean") -> None:
        if disks not in get_args(Disks):
            msg = f"disks {disks!r} do not exist; use one of {', '.join(get_args(Disks))}"
            raise SpecError(msg)
        self.disks = disks

    def __call__(self, img: NDArray[Any] | torch.Tensor) -> Any:
        """Clean a mask (1, X, Y) of any type of number; type and metadata stay."""
        mask = np.asarray(convert_to_numpy(img))
        if mask.ndim != 3 or len(mask) != 1:
            msg = f"got a mask of shape {mask.shape}; give one 2-D mask with one channel, (1, X, Y)"
            raise DataError(msg)
        if not np.isin(mask, (0, 1)).all():
            msg = (
                f"got a mask with values from {mask.min()} to {mask.max()}; give one of 0 and 1: take the argmax first"
            )
            raise DataError(msg)
        cleaned, *_ = convert_to_dst_type(self._clean(mask[0] == 1)[None], img)
        return cleaned

    def _clean(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        mask = ndimage.binary_fill_holes(mask)
        mask = self._dilate(self._erode(mask, EROSION), DILATION)
        mask = self._dilate(self._erode(mask, OPENING), OPENING)
        return ndimage.binary_fill_holes(main_component(mask))

    def _erode(self, mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
        from skimage.morphology import isotropic_erosion

        if self.disks == "matlab":
            return ndimage.binary_erosion(mask, matlab_disk(radius), border_value=1)
        # Where there is no background, the distance to it is not defined.
        return mask if mask.all() else isotropic_erosion(mask, radius)

    def _dilate(self, mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
        from skimage.morphology import isotropic_dilation

        if self.disks == "matlab":
            return ndimage.binary_dilation(mask, matlab_disk(radius))
        return isotropic_dilation(mask, radius) if mask.any() else mask


class CleanMuscleMaskd(MapTransform):
    """`CleanMuscleMask` on the entries of a dictionary.

    Args:
        keys: of masks (1, X, Y).
        disks: see `CleanMuscleMask`.
        allow_missing_keys: do nothing for a missing key.
    """

    def __init__(self, keys: KeysCollection, *, disks: Disks = "euclidean", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.clean = CleanMuscleMask(disks=disks)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.clean(d[key])
        return d


def main_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest component of a mask (X, Y), or a more superficial one of nearly its size.

    Where the second largest has at least 75 % of the largest's area, that of the two stays whose uppermost pixel is
    nearer to the skin, at index 0 of the second axis; the largest where they are level. (The paper's release compares
    the left edges, which its text does not.) Pixels that touch at a corner belong together.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count < 2:
        return mask
    areas = np.bincount(labels.ravel())[1:]
    tops = np.array([box[1].start for box in ndimage.find_objects(labels)])
    largest, second = np.lexsort((tops, -areas))[:2]
    close = 4 * areas[second] >= 3 * areas[largest]
    chosen = second if close and tops[second] < tops[largest] else largest
    return labels == chosen + 1


def matlab_disk(radius: int) -> NDArray[np.uint8]:
    """What MATLAB's `strel("disk", radius)` is from radius 3 on: an octagon, less than 2 * radius + 1 pixels across.

    It is a horizontal, a vertical and two diagonal lines dilated by each other, so long that the octagon's eight sides
    have about one distance from its centre (Adams, "Radial decomposition of discs and spheres", CVGIP 1993). Lengths
    are rounded down; the straight lines make up for what is missing to the radius, but for one pixel.
    """
    from skimage.morphology import octagon

    length = 2 * radius / (1 / np.tan(np.pi / 8) + 1 / np.sin(np.pi / 8))
    straight, diagonal = int(length), int(length / np.sqrt(2))
    straight += max(radius - (straight + 2 * diagonal) - 1, 0)
    return octagon(2 * straight + 1, 2 * diagonal)
