"""Checks of images and labels before anything is computed from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.reading import RawImage, read_image
from medsegdiff.errors import DataError

logger = logging.getLogger(__name__)

# Two grids are the same when no corner moves by more than this fraction of the smallest voxel edge: far above the
# rounding of headers (float32, quaternions), far below the half voxel of the usual mistakes.
GRID_TOLERANCE = 0.1
# Labels stored with a scale factor read like 0.99999997.
LABEL_TOLERANCE = 1e-3
# Networks compute in float32; a larger number would become infinite on its way in.
LARGEST_INTENSITY = float(np.finfo(np.float32).max)
_MOST_LISTED = 8

ImageFiles = str | Path | Sequence[str | Path]
"""One file with all channels of an image, or several with a channel each."""


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """What a check has learned about one file.

    Attributes:
        path: the file, or the folder of a DICOM series; the first where channels are files of their own.
        shape: spatial shape, (x, y) or (x, y, z).
        channels: number of channels; 1 without a channel axis.
        spacing: edge lengths of a voxel in mm, one per spatial axis; 1 for pictures.
        affine: (4, 4), from voxel index to millimetres in RAS; the identity for pictures.
        dtype: type of the numbers as stored.
        minimum: smallest intensity.
        maximum: largest intensity.
    """

    path: Path
    shape: tuple[int, ...]
    channels: int
    spacing: tuple[float, ...]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    minimum: float
    maximum: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What a check has learned about an image and its label.

    Attributes:
        image: facts of the image.
        label: facts of the label.
        class_voxels: number of voxels of each class, background first.
    """

    image: ImageFacts
    label: ImageFacts
    class_voxels: tuple[int, ...]


def check_image(path: ImageFiles, *, spatial_dims: int, channels: int | None = None) -> ImageFacts:
    """Read one image and make sure that a network can work with it.

    Args:
        path: NIfTI, MetaImage or NRRD file, picture (PNG, TIFF, JPEG, BMP), or folder of one DICOM series; or several
            of these, one a channel.
        spatial_dims: 2 or 3.
        channels: the number of channels that the task has; None allows any.

    Returns:
        The facts of the file.

    Raises:
        DataError: missing or unreadable file, wrong number of axes or channels, an axis of length zero, a grid without
            extent, voxels that are no finite real numbers, or the same value everywhere.
    """
    return read_checked(path, spatial_dims=spatial_dims, channels=channels)[1]


def read_checked(path: ImageFiles, *, spatial_dims: int, channels: int | None = None) -> tuple[RawImage, ImageFacts]:
    """Read one image and make sure that a network can work with it; arguments and errors as `check_image`."""
    if isinstance(path, (str, Path)):
        return _read_file(Path(path), spatial_dims=spatial_dims, channels=channels)
    if len(path) == 1:
        return _read_file(Path(path[0]), spatial_dims=spatial_dims, channels=channels)
    if channels not in (None, len(path)):
        msg = (
            f"got {len(path)} files for an image of {_channels(channels)}, {', '.join(map(str, path))}; allowed is one "
            "file a channel, or one file with all of them"
        )
        raise DataError(msg)
    images = [_read_file(Path(file), spatial_dims=spatial_dims, channels=1) for file in path]
    raw, facts = images[0]
    for _, others in images[1:]:
        check_same_grid(facts, others)
    array = np.stack([image.array.reshape(facts.shape) for image, _ in images], axis=-1)
    bounds = [(f.minimum, f.maximum) for _, f in images]
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    return replace(raw, array=array), replace(facts, channels=len(images), minimum=low, maximum=high)


def _read_file(path: Path, *, spatial_dims: int, channels: int | None) -> tuple[RawImage, ImageFacts]:
    raw = read_image(path)
    if spatial_dims == 2 and raw.array.ndim > 2 and raw.array.shape[2] == 1:
        # NIfTI has no plane but a volume of one slice, (x, y, 1[, channels]).
        raw = replace(raw, array=raw.array.squeeze(2))
    check_axes(path, raw, spatial_dims=spatial_dims, channels=channels)
    check_affine(path, raw.affine)
    check_finite(path, raw.array)
    facts = facts_of(path, raw, spatial_dims)
    check_contrast(facts, raw.array)
    return raw, facts


def check_pair(
    image_path: ImageFiles, label_path: str | Path, *, num_classes: int, spatial_dims: int = 3, channels: int = 1
) -> Findings:
    """Check an image, its label, and that the two belong together.

    Args:
        image_path: the image, as in `check_image`.
        label_path: the label map: whole numbers from 0 (background) to `num_classes` - 1.
        num_classes: number of classes with the background.
        spatial_dims: 2 or 3.
        channels: number of channels of the image; a label has one.

    Raises:
        DataError: whatever `check_image` finds; label and image on different grids; label values that are no class;
            a label without any foreground.
    """
    image = check_image(image_path, spatial_dims=spatial_dims, channels=channels)
    label_path = Path(label_path)
    raw = read_image(label_path)
    check_axes(label_path, raw, spatial_dims=spatial_dims, channels=1)
    check_affine(label_path, raw.affine)
    check_finite(label_path, raw.array)
    label = facts_of(label_path, raw, spatial_dims)
    check_same_grid(image, label)
    return Findings(image, label, count_classes(label_path, raw.array, num_classes))


def check_same_grid(image: ImageFacts, other: ImageFacts) -> None:
    """Make sure that two files sample the same points of space.

    Raises:
        DataError: other shape, or a corner of the grid moved by more than `GRID_TOLERANCE` of the smallest voxel edge.
    """
    if image.shape == other.shape:
        corners = np.array([[*corner, 1] for corner in product(*((0, size - 1) for size in _three(image.shape)))])
        moved = np.linalg.norm((corners @ (image.affine - other.affine).T)[:, :3], axis=1).max()
        if moved <= GRID_TOLERANCE * min(image.spacing):
            return
        difference = f"the grids are {moved:.3g} mm apart"
    else:
        difference = "the shapes differ"
    msg = (
        f"{other.path}: got a grid of shape {other.shape} and affine {_numbers(other.affine)} where {image.path} has "
        f"{image.shape} and {_numbers(image.affine)}: {difference}; allowed is one and the same grid; resample one of "
        "them or pair the right files"
    )
    raise DataError(msg)


def check_axes(path: Path, raw: RawImage, *, spatial_dims: int, channels: int | None) -> None:
    """Make sure that a file has the axes and channels that are expected; any number of channels where it is None.

    Raises:
        DataError: it has not, or an axis is empty.
    """
    shape = raw.array.shape
    if 0 in shape:
        msg = f"{path}: got an axis of length zero, shape {shape}; allowed are axes of 1 voxel or more; export it again"
        raise DataError(msg)
    extra = len(shape) - spatial_dims
    found = _channel_count(raw, spatial_dims)
    if extra in (0, 1) and channels in (None, found):
        return
    got = f" ({_channels(found)})" if extra in (0, 1) else ""
    wanted = " with channels, if any, on the last axis" if channels is None else f" with {_channels(channels)}"
    msg = (
        f"{path}: got {len(shape)}-D data of shape {shape}{got}; allowed is a {spatial_dims}-D image{wanted}; select, "
        "split or stack its channels"
    )
    raise DataError(msg)


def check_affine(path: Path, affine: NDArray[np.float64]) -> None:
    """Make sure that an affine (4, 4) gives voxels an extent.

    Raises:
        DataError: it does not.
    """
    if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0:
        return
    msg = (
        f"{path}: got the affine {_numbers(affine)}, a grid without extent; allowed are finite, non-zero voxel sizes; "
        "repair the header"
    )
    raise DataError(msg)


def check_finite(path: Path, array: NDArray[Any]) -> None:
    """Make sure that all voxels are finite real numbers within float32.

    Raises:
        DataError: they are not; the message counts them.
    """
    if array.dtype.kind not in "biuf":
        msg = f"{path}: got voxels of type {array.dtype}; allowed are real numbers; split colours into channels"
        raise DataError(msg)
    # Minimum and maximum carry NaN and infinity along, and need no second array of the volume's size.
    if array.dtype.kind != "f" or max(abs(float(array.min())), abs(float(array.max()))) <= LARGEST_INTENSITY:
        return
    wrong = int(np.count_nonzero(~(np.abs(array) <= LARGEST_INTENSITY)))
    msg = (
        f"{path}: got {wrong} of {array.size} voxels that are NaN, infinite or beyond float32; allowed are finite "
        "numbers; replace these voxels"
    )
    raise DataError(msg)


def check_contrast(facts: ImageFacts, array: NDArray[Any]) -> None:
    """Make sure that an image is not one value everywhere; a constant channel among several is a warning.

    Raises:
        DataError: it is.
    """
    if facts.minimum == facts.maximum:
        msg = (
            f"{facts.path}: got the value {facts.minimum:g} in every voxel; allowed is an image with contrast; check "
            "that it was exported completely"
        )
        raise DataError(msg)
    for channel in range(facts.channels if facts.channels > 1 else 0):
        values = array[..., channel]
        if values.min() == values.max():
            logger.warning("%s: channel %d of %d is constant", facts.path, channel, facts.channels)


def count_classes(path: Path, array: NDArray[Any], num_classes: int) -> tuple[int, ...]:
    """Number of voxels of each class, background first.

    Raises:
        DataError: a value is no class, or there is no foreground.
    """
    fractional = array.dtype.kind == "f"
    values = np.rint(array) if fractional else array
    wrong = (values < 0) | (values >= num_classes)
    if fractional:
        wrong |= np.abs(array - values) > LABEL_TOLERANCE
    if wrong.any():
        found = np.unique(array[wrong])
        listed = ", ".join(f"{value:g}" for value in found[:_MOST_LISTED].tolist())
        more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
        msg = (
            f"{path}: got the label values {listed}{more} in {np.count_nonzero(wrong)} voxels; allowed are "
            f"{_allowed(num_classes)}; map the values to classes or correct the label"
        )
        raise DataError(msg)
    counts = np.bincount(values.astype(np.intp).ravel(), minlength=num_classes)
    if counts[1:].sum() == 0:
        msg = (
            f"{path}: got a label without foreground, 0 everywhere; allowed is at least one voxel of another class; "
            "leave this case out or complete its label"
        )
        raise DataError(msg)
    return tuple(counts.tolist())


def facts_of(path: Path, raw: RawImage, spatial_dims: int) -> ImageFacts:
    """What is known about a file that was read."""
    return ImageFacts(
        path=path,
        shape=raw.array.shape[:spatial_dims],
        channels=_channel_count(raw, spatial_dims),
        spacing=tuple(np.linalg.norm(raw.affine[:3, :spatial_dims], axis=0).tolist()),
        affine=raw.affine,
        dtype=raw.dtype,
        minimum=float(raw.array.min()),
        maximum=float(raw.array.max()),
    )


def _channel_count(raw: RawImage, spatial_dims: int) -> int:
    return raw.array.shape[-1] if raw.array.ndim == spatial_dims + 1 else 1


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, *(1,) * (3 - len(shape)))


def _numbers(affine: NDArray[np.float64]) -> str:
    return str(np.round(affine[:3], 3).tolist())


def _allowed(num_classes: int) -> str:
    return ", ".join(map(str, range(num_classes))) if num_classes <= _MOST_LISTED else f"0 to {num_classes - 1}"
