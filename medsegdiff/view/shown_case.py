"""A result as it is shown: image, label map and uncertainty the same way up, with what there is to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from medsegdiff.data.reading import PICTURE_SUFFIXES, case_name, image_suffix, read_image

_COLOURS = (3, 4)  # channels of a colour picture, the fourth its transparency


@dataclass(frozen=True)
class ShownClass:
    """A class of the label map.

    Attributes:
        name: of the class.
        rgb: three numbers from 0 to 255.
        voxels: how many have it.
        ml: their volume; None for pictures.
    """

    name: str
    rgb: tuple[int, int, int]
    voxels: int
    ml: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class ShownCase:
    """What is shown of a case; X, Y, Z run to the patient's right, front and head, or right, up and 1 in a picture.

    Attributes:
        name: of the case.
        channels: of the image by name, (X, Y, Z), or (X, Y, 1, 3) for colours.
        label: class of each voxel (X, Y, Z).
        uncertainty: entropy from 0 to 1 (X, Y, Z), or None.
        affine: (4, 4), from voxel index to millimetres in RAS.
        is_picture: whether it has no place in a patient, and so neither left nor right.
        classes: all but the background.
        facts: what is to be known about the result, name and text.
    """

    name: str
    channels: dict[str, NDArray[Any]]
    label: NDArray[Any]
    uncertainty: NDArray[np.float32] | None
    affine: NDArray[np.float64]
    is_picture: bool
    classes: Sequence[ShownClass]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Of the voxels along X, Y and Z, in mm; 1 in pictures."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def is_empty(self) -> bool:
        """Whether nothing but background was found."""
        return not any(one.voxels for one in self.classes)


def show_case(
    name: str,
    files: Sequence[Path],
    label: NDArray[Any],
    uncertainty: NDArray[np.float32] | None,
    *,
    affine: NDArray[np.float64],
    classes: Sequence[ShownClass],
    facts: dict[str, str],
) -> ShownCase:
    """Read the image of a result again, and turn all to one orientation.

    Args:
        name: of the case.
        files: of the image, one or one a channel.
        label: class of each voxel (*S) on the grid of the files.
        uncertainty: (*S), or None.
        affine: (4, 4), from voxel index to millimetres in RAS.
        classes: see `ShownCase`.
        facts: see `ShownCase`.

    Raises:
        DataError: a file that cannot be read any more.
    """
    is_picture = image_suffix(files[0]) in PICTURE_SUFFIXES
    turned, to_ras = _turned(label, affine, is_picture=is_picture)
    channels = {
        key: _turned(array, affine, is_picture=is_picture)[0]
        for file in files
        for key, array in _channels(read_image(file).array, case_name(file), dims=label.ndim).items()
    }
    return ShownCase(
        name=name,
        channels=channels,
        label=turned,
        uncertainty=None if uncertainty is None else _turned(uncertainty, affine, is_picture=is_picture)[0],
        affine=to_ras,
        is_picture=is_picture,
        classes=classes,
        facts=facts,
    )


def _channels(array: NDArray[Any], name: str, *, dims: int) -> dict[str, NDArray[Any]]:
    """The channels (*S) of an image by name; a picture in colours is one, (*S, 3), and transparency is none."""
    if array.ndim == dims:
        return {name: array}
    count = array.shape[-1]
    if dims == 2 and array.dtype == np.uint8 and count in _COLOURS:
        return {name: array[..., :3]}
    if count == 1 or (dims == 2 and array.dtype == np.uint8 and count == 2):
        return {name: array[..., 0]}
    return {f"{name}, channel {number + 1}": array[..., number] for number in range(count)}


def _turned(
    array: NDArray[Any], affine: NDArray[np.float64], *, is_picture: bool
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """An array (*S) or (*S, 3) as (X, Y, Z[, 3]), and its affine."""
    if is_picture:
        # Rows of pictures run down.
        return np.expand_dims(array[:, ::-1], 2), np.eye(4)
    volume = array.reshape(*array.shape, *[1] * (3 - array.ndim))
    orientation = io_orientation(affine)
    return apply_orientation(volume, orientation), affine @ inv_ornt_aff(orientation, volume.shape)


def as_nifti(array: NDArray[Any], affine: NDArray[np.float64], *, slope: float = 1.0) -> nibabel.Nifti1Image:
    """An array (X, Y, Z) as NIfTI; of uint8 colours (X, Y, Z, 3) as voxels of the type RGB.

    Args:
        array: numbers as they are to be stored.
        affine: (4, 4).
        slope: what a stored number is to be multiplied by.
    """
    if array.ndim > 3:
        rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        array = np.ascontiguousarray(array).view(rgb)[..., 0]
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_slope_inter(slope, 0)
    return image
