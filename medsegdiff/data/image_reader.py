"""MONAI's way to read an image, through the checks and readers of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from numpy.typing import NDArray

from medsegdiff.data.integrity import read_checked


class CheckedReader(ImageReader):
    """A reader for `LoadImaged` that takes all formats of `read_image` and refuses what a network cannot work with.

    NIfTI, MetaImage, NRRD, pictures and folders of one DICOM series come in one order of axes and with one kind of
    affine (RAS, millimetres). Several files of one image are stacked as its channels.

    Args:
        spatial_dims: 2 or 3.
        channels: the number of channels that the task has; None allows any.

    Raises:
        DataError: while reading, see `check_image`.
    """

    def __init__(self, *, spatial_dims: int, channels: int | None = None) -> None:
        self.spatial_dims = spatial_dims
        self.channels = channels

    def verify_suffix(self, filename: Any) -> bool:
        """Whatever it is: `read_image` says what is wrong with a file better than a search for another reader."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Only pass on the paths: MONAI forgets which error `read` raised, but not which `get_data` raised."""
        return data

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Read the files that `read` was given into one array (*S[, channels]) and its metadata."""
        paths = [Path(path) for path in ensure_tuple(img)]
        raw, _ = read_checked(paths, spatial_dims=self.spatial_dims, channels=self.channels)
        array, affine = raw.array, raw.affine
        has_channels = array.ndim > self.spatial_dims
        return array, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[: self.spatial_dims]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if has_channels else float("nan"),  # NaN is MONAI's word for none
        }
