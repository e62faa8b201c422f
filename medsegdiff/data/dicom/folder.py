"""A folder that holds one DICOM series, read as one image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.dicom.grid import Grid
from medsegdiff.data.dicom.pixels import read_voxels
from medsegdiff.data.dicom.series import find_series
from medsegdiff.data.dicom.volumes import Refusal, find_volumes
from medsegdiff.errors import DataError


def read_folder(folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read the one series of images that lies directly in a folder; contours, reports and the like are passed over.

    Returns:
        Voxels (columns, rows, slices), and the affine (4, 4) from voxel index to millimetres in RAS.

    Raises:
        DataError: no series of images, several, a damaged file, or a series that is not one regular volume.
    """
    grid = find_grid(folder)
    with _named(folder):
        return read_voxels(grid), grid.affine


def find_grid(folder: Path) -> Grid:
    """The grid of the volume that `read_folder` reads, from the headers alone; errors as there."""
    scan = find_series(sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")))
    if scan.damaged:
        raise scan.damaged[0]
    if len(scan.images) != 1:
        msg = (
            f"{folder}: got a folder with {len(scan.images) or 'no'} DICOM series; allowed is exactly one; give the "
            "folder of one series or the path of an image"
        )
        raise DataError(msg)
    volumes = find_volumes(scan.images[0].frames)
    if len(volumes) > 1:
        labels = ", ".join(volume.label for volume in volumes)
        msg = (
            f"{folder}: got a series of {len(volumes)} volumes ({labels}); allowed is one regular volume; split it "
            "with python -m data_prep.dicom"
        )
        raise DataError(msg)
    volume = volumes[0]
    with _named(folder):
        if isinstance(volume, Refusal):
            raise DataError(volume.reason)
        return volume.grid


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Put the folder before what is wrong with its series."""
    try:
        yield
    except DataError as error:
        msg = f"{folder}: {error}"
        raise DataError(msg) from error
