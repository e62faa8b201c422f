"""Label maps as files, in the formats that viewers ask for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.apps.label.options import EXTENSIONS, read_choice
from medsegdiff.data.reading import NIFTI_SUFFIXES, PICTURE_SUFFIXES, image_suffix
from medsegdiff.data.writer import write_images
from medsegdiff.errors import DataError
from medsegdiff.notice import short_notice


def write_result(
    label: NDArray[Any],
    affine: NDArray[np.float64],
    *,
    image: Path,
    request: Mapping[str, Any],
    bundle: str = "",
) -> Path:
    """Write a label map as a temporary file, which is the caller's to remove.

    Args:
        label: whole numbers (*S), stored as uint8.
        affine: (4, 4), from voxel index to millimetres in RAS.
        image: the file that it belongs to, whose format is taken where the request asks for none.
        request: `result_extension`, one of ".nrrd", ".nii.gz", ".nii", and ".png" for pictures; `result_compress`,
            whether NRRD is compressed.
        bundle: name of the bundle that made it, for the notice in the file.

    Raises:
        SpecError: a format that is not written.
        DataError: more than 256 classes, or a file that cannot be written.
    """
    if label.max(initial=0) > np.iinfo(np.uint8).max:
        msg = f"got {int(label.max())} classes; allowed are 255 beside the background, which fit 8 bits"
        raise DataError(msg)
    suffix = read_choice(request, "result_extension", formats_of(image))
    handle, name = tempfile.mkstemp(prefix="label_", suffix=suffix)
    os.close(handle)
    path, notice = Path(name), short_notice(bundle)
    try:
        if suffix == ".nrrd":
            compress = bool(request.get("result_compress"))
            _write_nrrd(label.astype(np.uint8), path, affine, notice=notice, compress=compress)
        else:
            write_images({path: label.astype(np.uint8)[None]}, affine=affine, like=image, description=notice)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def formats_of(image: Path) -> tuple[str, ...]:
    """The format that suits the image, and the others that it may be asked for in."""
    suffix = image_suffix(image)
    if suffix in PICTURE_SUFFIXES:
        return (".png", *EXTENSIONS)
    return tuple(dict.fromkeys((suffix if suffix in NIFTI_SUFFIXES else ".nrrd", *EXTENSIONS)))


def _write_nrrd(
    label: NDArray[np.uint8], path: Path, affine: NDArray[np.float64], *, notice: str, compress: bool
) -> None:
    import SimpleITK as sitk

    dims = label.ndim
    image = sitk.GetImageFromArray(np.ascontiguousarray(label.T))
    lps = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)[[*range(dims), 3]][:, [*range(dims), 3]]
    spacing = np.linalg.norm(lps[:dims, :dims], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:dims, :dims] / spacing).ravel().tolist())
    image.SetOrigin(lps[:dims, dims].tolist())
    image.SetMetaData("notice", notice)
    sitk.WriteImage(image, str(path), compress)
