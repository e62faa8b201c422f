"""MONAI's way to save an image, through the writer of this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageWriter
from monai.data.utils import to_affine_nd
from monai.utils import ImageMetaKey, MetaKeys
from numpy.typing import NDArray

from medsegdiff.data.writer import write_images
from medsegdiff.errors import DataError
from medsegdiff.notice import short_notice


class GridWriter(ImageWriter):
    """A writer for `SaveImaged`: whole files only, with the header of the NIfTI image that they belong to.

    `SaveImaged` calls it with one result (C, *S) on the grid of its image. It resamples nothing, see `write_images`
    for the formats.

    Args:
        output_dtype: type to store; a whole-number type makes it a label map.
        **ignored: further settings of other writers.
    """

    def __init__(self, output_dtype: Any = None, **ignored: Any) -> None:
        super().__init__()
        self.output_dtype = output_dtype
        self.array: NDArray[Any] | None = None
        self.affine = np.eye(4)
        self.like: str | None = None

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **ignored: Any) -> None:
        """Take the result (C, *S); MONAI counts axes wrongly at times, so that `channel_dim` is not asked."""
        array = np.asarray(torch.as_tensor(data_array).detach().cpu())
        self.array = array if self.output_dtype is None else array.astype(self.output_dtype)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, **ignored: Any) -> None:
        """Take the grid."""
        meta = meta_dict or {}
        current, original = (meta.get(key) for key in (MetaKeys.AFFINE, MetaKeys.ORIGINAL_AFFINE))
        if current is not None:
            self.affine = to_affine_nd(3, np.asarray(current, np.float64))
        if original is not None:
            exact = to_affine_nd(3, np.asarray(original, np.float64))
            # Inverted transforms come back to the original grid but for rounding.
            self.affine = exact if np.allclose(exact, self.affine, atol=1e-3) else self.affine
        self.like = meta.get(ImageMetaKey.FILENAME_OR_OBJ)

    def write(self, filename: Any, verbose: bool = True, **ignored: Any) -> None:
        """Write the file.

        Raises:
            DataError: it cannot be written, or no data were given.
        """
        if self.array is None:
            msg = f"{filename}: there is nothing to write; call set_data_array first"
            raise DataError(msg)
        super().write(filename, verbose=verbose)
        write_images({Path(filename): self.array}, affine=self.affine, like=self.like, description=short_notice())
