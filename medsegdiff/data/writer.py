"""Writing results on the grid of the image they belong to, whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medsegdiff import files
from medsegdiff.data.reading import NIFTI_SUFFIXES, PICTURE_SUFFIXES, image_suffix
from medsegdiff.errors import DataError

Channels = Sequence[NDArray[Any]] | NDArray[Any]
"""Arrays (*S), or one array (C, *S)."""

# The part of a NIfTI header that says where the voxels lie.
_GRID_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
_SCANNER = 1  # NIfTI's code for coordinates of the scanner
_SPACE_UNITS = 0b111  # bits of xyzt_units that hold the unit of length
_GZIP_LEVEL = 1  # probabilities hardly shrink further, at many times the cost

written_whole = functools.partial(files.written_whole, advice="free space, or name another --output folder")


def write_nifti(
    array: NDArray[Any],
    path: str | Path,
    *,
    affine: NDArray[np.floating],
    like: str | Path | None = None,
    description: str = "",
) -> None:
    """Write a NIfTI file, whole or not at all.

    Label maps (whole numbers) are stored as uint8, or as uint16 where a value is above 255; all else as float32.

    Args:
        array: (x, y, z) or (x, y, z, K).
        path: ends in .nii or .nii.gz; a file that is there is replaced.
        affine: (4, 4), from voxel index to millimetres in RAS.
        like: a NIfTI file on the same grid whose sform, qform, their codes and unit are kept bit for bit.
        description: for the header, at most 79 bytes.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    channels = np.moveaxis(array, -1, 0) if array.ndim > 3 else array[None]
    with written_whole(path) as partial:
        _save_nifti(channels, partial, image_suffix(path), affine=affine, like=like, description=description)


def write_images(
    images: Mapping[Path, Channels],
    *,
    affine: NDArray[np.floating],
    like: str | Path | None = None,
    others: Mapping[Path, Callable[[Path], None]] | None = None,
    description: str = "",
) -> None:
    """Write the results of one case: all files, or none.

    The suffix chooses the format: NIfTI (see `write_nifti`), or for 2-D images PNG for label maps and TIFF with one
    float32 page a channel for the rest, as pictures have no better place for numbers between 0 and 1.

    Args:
        images: channels, each an array (*S), by the path to write them to; a single one is stored without a channel
            axis. Each is taken once and in order, so that channels made on access need the memory of one.
        affine: (4, 4), from voxel index to millimetres in RAS; not used for pictures.
        like: the image that they belong to, see `write_nifti`; only a NIfTI file is looked at.
        others: files of other formats, each by what writes it to the path that it is given.
        description: for the header of NIfTI files, at most 79 bytes, and for the text of PNG and TIFF.

    Raises:
        DataError: a file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        # All are complete under their temporary names before the first takes its place.
        for path, channels in images.items():
            partial = stack.enter_context(written_whole(path))
            suffix = image_suffix(path)
            if suffix in PICTURE_SUFFIXES:
                _save_picture(channels, partial, suffix, description=description)
            else:
                _save_nifti(channels, partial, suffix, affine=affine, like=like, description=description)
        for path, write in (others or {}).items():
            write(stack.enter_context(written_whole(path)))


def make_folder(path: str | Path) -> Path:
    """Make a folder for results, and make sure that files can be written to it.

    Raises:
        DataError: it cannot be made or written to.
    """
    path = Path(path)
    probe = files.temporary_name(path / "probe")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        msg = f"{path}: results cannot be written there ({error.strerror}); name a folder that you may write to"
        raise DataError(msg) from error
    return path


def _save_nifti(
    channels: Channels,
    path: Path,
    suffix: str | None,
    *,
    affine: NDArray[np.floating],
    like: str | Path | None,
    description: str,
) -> None:
    volumes = (_volume(channels[index]) for index in range(len(channels)))  # each made when it is taken
    volume = next(volumes)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(volume.dtype)
    header.set_xyzt_units("mm")
    header["descrip"] = description.encode()
    model: Any = nibabel.load(like) if like is not None and image_suffix(like) in NIFTI_SUFFIXES else None
    if model is not None and np.allclose(model.affine, affine, atol=1e-3):
        for field in _GRID_FIELDS:
            header[field] = model.header[field]
        header["pixdim"][:4] = model.header["pixdim"][:4]
        header["xyzt_units"] = int(model.header["xyzt_units"]) & _SPACE_UNITS
        image = nibabel.Nifti1Image(volume, model.affine, header)
    else:
        image = nibabel.Nifti1Image(volume, np.asarray(affine, np.float64), header)
        image.set_sform(affine, code=_SCANNER)
        image.set_qform(affine, code=_SCANNER)
    with path.open("wb") as file:
        if suffix != ".nii.gz":
            _stream(image, volumes, len(channels), file)
            return
        # Without name and time in its header, the same result gives the same file.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=file, mtime=0) as packed:
            _stream(image, volumes, len(channels), packed)


def _stream(image: nibabel.Nifti1Image, rest: Iterable[NDArray[Any]], count: int, file: Any) -> None:
    """Write an image, and behind its voxels those of the rest of `count` channels, as the fourth axis is stored."""
    if count == 1:
        image.to_stream(file)
        return
    header = image.header.copy()
    header.set_data_shape((*image.shape, count))
    header.set_data_offset(header.single_vox_offset)
    header.set_slope_inter(1, 0)
    header.write_to(file)  # with the four bytes that say that nothing comes between it and the voxels
    file.write(np.asarray(image.dataobj).tobytes(order="F"))
    for volume in rest:
        file.write(volume.tobytes(order="F"))


def _volume(channel: NDArray[Any]) -> NDArray[Any]:
    """A channel (*S) as it is stored, (x, y, z)."""
    channel = _storable(channel)
    return channel.reshape(*channel.shape, *[1] * (3 - channel.ndim))


def _save_picture(channels: Channels, path: Path, suffix: str, *, description: str) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    first, *rest = [
        Image.fromarray(np.ascontiguousarray(_storable(channels[index]).T)) for index in range(len(channels))
    ]
    # Asked for several pages, the PNG writer would make an animation of a single one.
    options: dict[str, Any] = {"save_all": True, "append_images": rest} if rest else {}
    kind = Image.registered_extensions()[suffix]
    if description and kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("Description", description)
    elif description and kind == "TIFF":
        options["description"] = description
    first.save(path, format=kind, **options)


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biu":
        return np.asarray(array, np.float32)
    return np.asarray(array, np.uint8 if array.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16)
