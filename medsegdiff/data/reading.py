"""Reading the voxels and the grid of one image, whatever its format."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, SpatialImage
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from medsegdiff.errors import DataError, one_line

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
IMAGE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PICTURE_SUFFIXES

# Modes of Pillow that are grey or RGB, with or without transparency; palettes are turned into these.
_PICTURE_MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_PALETTE_MODES = ("P", "PA")
_SUBFILE_TYPE, _REDUCED = 254, 1  # TIFF: the tag of a page, and its bit for a smaller copy of another page

# All that damaged files were seen to raise from the readers; whatever else they raise is worth a traceback.
_READ_ERRORS = (
    OSError,  # gzip.BadGzipFile and PIL.UnidentifiedImageError are among them
    EOFError,
    zlib.error,
    ValueError,
    RuntimeError,  # SimpleITK raises nothing else
    OverflowError,
    MemoryError,
    SyntaxError,  # Pillow, on a damaged PNG chunk
    ImageFileError,
    HeaderDataError,
    HeaderTypeError,
    WrapStructError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, eq=False)
class RawImage:
    """The content of one file before any check.

    Attributes:
        array: voxels in the order (x, y[, z][, channels]).
        affine: (4, 4), from voxel index to millimetres in RAS; the identity for pictures (PNG, TIFF, JPEG, BMP).
        dtype: the type of the numbers as stored in the file, before any scaling.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]


def image_suffix(path: str | Path) -> str | None:
    """The suffix of `path` among `IMAGE_SUFFIXES` in lower case, or None when it is of no readable kind."""
    name = Path(path).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix) and name != suffix), None)


def case_name(path: str | Path) -> str:
    """The name of `path` without folder and without image suffix: `imagesTr/case_01.nii.gz` gives `case_01`."""
    name = Path(path).name
    return name[: -len(image_suffix(path) or "")] or name


def read_image(path: str | Path) -> RawImage:
    """Read a NIfTI, MetaImage or NRRD file, a picture, or a folder that holds one DICOM series.

    Pictures come in MONAI's order, (width, height[, channels]), as its `PILReader` gives them. A palette is replaced by
    its colours, or by their one channel where all of them are grey. The pages of a TIFF are its channels.

    Raises:
        DataError: missing, of no readable format, damaged, a picture in other colours than grey or RGB or with pages
            that are no channels, or a DICOM folder that is not one regular volume.
    """
    path = Path(path)
    try:
        if not path.exists():
            msg = f"{path}: there is no such file or folder; give the path of an existing image"
            raise DataError(msg)
        return _reader(path)(path)
    except DataError:
        raise
    except _READ_ERRORS as error:
        # ITK explains itself in several lines of which the last says what happened.
        reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
        msg = (
            f"{path}: cannot be read ({one_line(Exception(reason))}); allowed are readable, undamaged files whose "
            "content fits their suffix; copy or export it again"
        )
        raise DataError(msg) from error


def _reader(path: Path) -> Callable[[Path], RawImage]:
    if path.is_dir():
        return _read_dicom_series
    suffix = image_suffix(path)
    if suffix is None:
        msg = (
            f"{path}: got a file of another format; allowed are {', '.join(IMAGE_SUFFIXES)} and a folder with one "
            "DICOM series; convert it to one of these"
        )
        raise DataError(msg)
    if suffix in NIFTI_SUFFIXES:
        return _read_nifti
    return _read_itk if suffix in ITK_SUFFIXES else _read_picture


def _read_nifti(path: Path) -> RawImage:
    image = nibabel.load(path)
    if not isinstance(image, SpatialImage):  # surfaces and time courses share the suffix
        msg = f"{path}: got a {type(image).__name__} without a voxel grid; allowed are volumes; give the image itself"
        raise DataError(msg)
    array = np.asanyarray(image.dataobj).reshape(image.shape)  # of no voxels nibabel gives the shape (0,)
    return RawImage(array, np.asarray(image.affine, np.float64), image.get_data_dtype())


def _read_picture(path: Path) -> RawImage:
    with Image.open(path) as image:
        if image.format == "TIFF":
            pages = [_pixels(path, page) for page in ImageSequence.Iterator(image) if not _is_preview(page)]
        else:
            pages = [_pixels(path, image)]
    if len({page.shape for page in pages}) != 1 or (len(pages) > 1 and pages[0].ndim > 2):
        msg = (
            f"{path}: got {len(pages)} pages that are no channels of one picture; allowed are one page, or grey pages "
            "of one size; save the right page as a file of its own"
        )
        raise DataError(msg)
    array = (pages[0] if len(pages) == 1 else np.stack(pages, axis=-1)).swapaxes(0, 1)
    return RawImage(array, np.eye(4), array.dtype)


def _is_preview(page: Image.Image) -> bool:
    tags = getattr(page, "tag_v2", {})
    return page.tell() > 0 and bool(tags.get(_SUBFILE_TYPE, 0) & _REDUCED)


def _pixels(path: Path, image: Image.Image) -> NDArray[Any]:
    """The pixels of one page, (height, width[, channels])."""
    cut = image.mode in ("RGB", "RGBA") and _has_16_bits(image)
    if cut or image.mode not in _PICTURE_MODES + _PALETTE_MODES:
        got = "16-bit colours" if cut else f"a picture of mode {image.mode}"
        msg = f"{path}: got {got}; allowed are grey of any depth and 8-bit RGB; convert it to one of these"
        raise DataError(msg)
    if image.mode not in _PALETTE_MODES:
        return np.asarray(image)
    transparent = image.mode == "PA" or "transparency" in image.info
    array = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    is_grey = bool((array[..., :3] == array[..., :1]).all())
    return (array[..., [0, 3]] if transparent else array[..., 0]) if is_grey else array


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel: of colours Pillow keeps the upper 8, which may be nothing but zeros."""
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    modes = [entry for entries in arguments for entry in (entries if isinstance(entries, tuple) else (entries,))]
    return any(";16" in str(mode) for mode in modes)


def _read_itk(path: Path) -> RawImage:
    import SimpleITK as sitk

    return _from_itk(sitk.ReadImage(str(path)))


def _read_dicom_series(folder: Path) -> RawImage:
    from medsegdiff.data.dicom.folder import read_folder

    voxels, affine = read_folder(folder)
    return RawImage(voxels, affine, voxels.dtype)


def _from_itk(image: Any) -> RawImage:
    import SimpleITK as sitk

    array = sitk.GetArrayViewFromImage(image)
    dims = image.GetDimension()
    vector = image.GetNumberOfComponentsPerPixel() > 1
    # ITK's arrays are (…, z, y, x[, channels]).
    axes = list(reversed(range(dims))) + ([dims] if vector else [])
    spatial = min(dims, 3)  # a fourth axis is time: a channel axis in our order
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:spatial, :spatial]
    affine = np.eye(4)
    affine[:spatial, :spatial] = direction * np.array(image.GetSpacing()[:spatial])
    affine[:spatial, 3] = image.GetOrigin()[:spatial]
    voxels = np.array(array.transpose(axes))
    return RawImage(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, voxels.dtype)
