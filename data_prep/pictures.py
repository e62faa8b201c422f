"""Pictures of every kind to what our folders hold: 8-bit grey or RGB images, and labels of class numbers.

Arrays are (width, height[, channels]), as `read_image` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medsegdiff.data.reading import read_image
from medsegdiff.errors import DataError

FILTERS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
_FULL_SCALES = (1, 255, 65535)
_MOST_LISTED = 8

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with its label, ready to be written.

    Attributes:
        image: (width, height) or (width, height, 3).
        label: (width, height), class numbers.
        remarks: what was changed on the way in other than the file format, a line each.
    """

    image: Pixels
    label: Pixels
    remarks: tuple[str, ...] = ()


def load_image(
    path: Path, *, channels: int, average: bool = False, rescale: bool = False
) -> tuple[Pixels, tuple[str, ...]]:
    """Read an image as 8-bit grey or RGB; transparency is dropped.

    Args:
        path: picture of any readable format.
        channels: 1 or 3, what is wanted.
        average: make grey of colours by the mean of the three; without it only of three equal ones.
        rescale: stretch what does not fit 8 bits from its own least and greatest value to 0 and 255.

    Returns:
        The image, (width, height) or (width, height, 3), and remarks.

    Raises:
        DataError: no readable picture, grey where colours are wanted or the reverse, or numbers that do not fit 8 bits.
    """
    array, alpha = _read(path)
    remarks = []
    if alpha is not None and (alpha != alpha.max()).any():
        clear = int(np.count_nonzero(alpha != alpha.max()))
        remarks.append(f"{path}: {clear} of {alpha.size} pixels are transparent; their colours are taken as stored")
    array = _to_bytes(path, array, rescale=rescale)
    found = array.shape[2] if array.ndim > 2 else 1
    if found == channels:
        return array, tuple(remarks)
    if found == 1:
        msg = f"{path}: got a grey image; allowed is one with 3 channels (RGB); give --channels 1 or the colour image"
        raise DataError(msg)
    if (array == array[..., :1]).all():
        return np.ascontiguousarray(array[..., 0]), tuple(remarks)
    if not average:
        msg = (
            f"{path}: got a colour image; allowed is a grey one; give --channels 3, or --average for the colours' mean"
        )
        raise DataError(msg)
    return np.rint(array.mean(axis=2)).astype(np.uint8), tuple(remarks)


def load_mask(paths: Sequence[Path], *, values: Mapping[int, int] | None = None) -> tuple[Pixels, tuple[str, ...]]:
    """Read the masks of one image as one label.

    Without `values` each mask is binary: 0 and 1, or 0 and full scale (255, 65535), with all that lies between (JPEG)
    thresholded at half. Transparency is dropped. Of a palette of colours the numbers are taken, of one of greys the
    greys.

    Args:
        paths: masks of one size; a pixel gets the highest class that any of them gives it.
        values: class number of every value that may be in a mask.

    Returns:
        The label, (width, height), and remarks.

    Raises:
        DataError: no readable grey picture, masks of different sizes, or values that are none of the above.
    """
    label, remarks = _load_one_mask(paths[0], values)
    for path in paths[1:]:
        other, more = _load_one_mask(path, values)
        check_same_size(paths[0], label, path, other)
        label, remarks = np.maximum(label, other), remarks + more
    return label, remarks


def fill_polygon(canvas: Image.Image, points: Sequence[tuple[float, float]], value: int) -> None:
    """Set what lies inside of or on an outline of (x, y) points to `value`; what leaves the canvas is cut off.

    Outlines drawn around structures pass through their outermost pixels, which therefore belong to them.
    """
    ImageDraw.Draw(canvas).polygon(list(points), fill=value, outline=value)


def resized(picture: Picture, size: int, *, image_filter: str, mask_filter: str) -> Picture:
    """The picture at `size` x `size` pixels.

    Args:
        picture: what to resize.
        size: width and height.
        image_filter: "nearest" or "bilinear" (Pillow's, which averages when it makes smaller).
        mask_filter: "nearest", or "bilinear" for a binary label: thresholded at one half.
    """
    shape = (size, size)
    image = np.asarray(as_pillow(picture.image).resize(shape, FILTERS[image_filter])).swapaxes(0, 1)
    if mask_filter == "nearest":
        label = np.asarray(as_pillow(picture.label).resize(shape, FILTERS[mask_filter])).T
    else:
        soft = Image.fromarray(np.ascontiguousarray(picture.label.T, np.float32)).resize(shape, FILTERS[mask_filter])
        label = (np.asarray(soft).T > 0.5).astype(np.uint8)
    return Picture(image, label, picture.remarks)


def check_same_size(first: Path, array: NDArray[Any], second: Path, other: NDArray[Any]) -> None:
    """Make sure that two pictures, the first of them an image or a mask, have as many pixels along both axes.

    Raises:
        DataError: they have not.
    """
    if array.shape[:2] != other.shape[:2]:
        sizes = [" x ".join(map(str, pixels.shape[:2])) for pixels in (other, array)]
        msg = (
            f"{second}: got {sizes[0]} pixels where {first} has {sizes[1]}; allowed is one and the same size; resample "
            "one of them or pair the right files"
        )
        raise DataError(msg)


def as_pillow(array: Pixels) -> Image.Image:
    """The picture as Pillow has it."""
    return Image.fromarray(np.ascontiguousarray(array.swapaxes(0, 1)))


def _load_one_mask(path: Path, values: Mapping[int, int] | None) -> tuple[Pixels, tuple[str, ...]]:
    array, alpha = _read(path)
    if array.ndim > 2:
        array = array[..., 0] if (array == array[..., :1]).all() else _palette_numbers(path)
    if alpha is not None and array.min() == array.max() and alpha.min() != alpha.max():
        msg = (
            f"{path}: got a mask whose shape is in its transparency; allowed are grey values; flatten it onto a "
            "background"
        )
        raise DataError(msg)
    found = np.unique(array)
    if values is not None:
        return _mapped(path, array, found, values), ()
    return _thresholded(path, array, found)


def _mapped(path: Path, array: NDArray[Any], found: NDArray[Any], values: Mapping[int, int]) -> Pixels:
    unknown = [value for value in found.tolist() if value not in values]
    if unknown:
        msg = (
            f"{path}: got the mask values {_listed(unknown)}; allowed are {_listed(sorted(values))}; say with --values "
            "which class each of them is"
        )
        raise DataError(msg)
    classes = np.array([values[value] for value in found.tolist()], np.uint8)
    return classes[np.searchsorted(found, array)]


def _thresholded(path: Path, array: NDArray[Any], found: NDArray[Any]) -> tuple[Pixels, tuple[str, ...]]:
    least, greatest = float(found[0]), float(found[-1])
    full = next((scale for scale in _FULL_SCALES if greatest <= scale), None)
    if full is None or not least >= 0 or (greatest > 0 and 2 * greatest <= full):
        msg = (
            f"{path}: got the mask values {_listed(found.tolist())}; allowed are 0 and 1, or 0 and 255 with values "
            "above half for the foreground; say with --values of data_prep.image_pairs which class each value is"
        )
        raise DataError(msg)
    between = int(np.count_nonzero((array != 0) & (array != full)))
    remark = f"{path}: {between} of {array.size} pixels lie between 0 and {full}; thresholded at one half"
    return (2.0 * array > full).astype(np.uint8), (remark,) if between else ()


def _palette_numbers(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        if image.mode == "P":
            return np.asarray(image).T
    msg = f"{path}: got a mask in colours; allowed are grey values or a palette; make it grey, one value a class"
    raise DataError(msg)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Grey (width, height) or colours (width, height, 3), and transparency (width, height) if there is one."""
    array = read_image(path).array
    with Image.open(path) as image:
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if pages > 1:
        msg = f"{path}: got {pages} pages; allowed is one picture a file; save the right page as a file of its own"
        raise DataError(msg)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        colours, alpha = array[..., :-1], array[..., -1]
        return (colours if colours.shape[2] > 1 else colours[..., 0]), alpha
    return array, None


def _to_bytes(path: Path, array: NDArray[Any], *, rescale: bool) -> Pixels:
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    least, greatest = float(array.min()), float(array.max())
    if not np.isfinite([least, greatest]).all():
        msg = f"{path}: got pixels that are NaN or infinite; allowed are finite numbers; replace them"
        raise DataError(msg)
    if not rescale:
        msg = (
            f"{path}: got pixels of type {array.dtype} from {least:g} to {greatest:g}; allowed are whole numbers from "
            "0 to 255; give --rescale to stretch each image to them"
        )
        raise DataError(msg)
    return np.rint((array - least) * (255 / ((greatest - least) or 1))).astype(np.uint8)


def _listed(values: Sequence[float]) -> str:
    more = f" and {len(values) - _MOST_LISTED} more" if len(values) > _MOST_LISTED else ""
    return ", ".join(f"{value:g}" for value in values[:_MOST_LISTED]) + more
