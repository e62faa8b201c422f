from __future__ import annotations

import re

import numpy as np
import pytest

from medsegdiff.data.dicom.folder import read_folder
from medsegdiff.errors import DataError
from tests.data.dicom.synthetic import SERIES, contours, noise, places, slices, write

HEIGHTS = np.arange(3) * 2.0


def test_a_folder_is_one_image_beside_what_is_none(tmp_path):
    volume = noise(3)
    write(tmp_path, [*slices(places(HEIGHTS), volume=volume), contours()])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "._0.dcm").write_bytes(b"resource fork")
    voxels, affine = read_folder(tmp_path)
    np.testing.assert_array_equal(voxels, volume)
    np.testing.assert_allclose(affine[:3, 3], (-3, 7, 11))


def _two_series():
    return [*slices(places(HEIGHTS)), *slices(places(HEIGHTS), SeriesInstanceUID=f"{SERIES}.1")]


def _damaged_pixels():
    datasets = slices(places(HEIGHTS))
    datasets[1].PixelData = datasets[1].PixelData[:-2]
    return datasets


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (list, "got a folder with no DICOM series; allowed is exactly one; give"),
        (_two_series, "got a folder with 2 DICOM series; allowed is exactly one; give"),
        (lambda: slices(places([0, 2, 5])), "got uneven slice spacing"),
        (
            lambda: slices(places([*HEIGHTS, *HEIGHTS]), EchoNumbers=[1] * 3 + [2] * 3),
            r"got a series of 2 volumes \(echo 1, echo 2\); allowed is one regular volume; split it with",
        ),
        (_damaged_pixels, "got pixels that cannot be decoded in instance 2"),
    ],
    ids=["nothing", "two series", "irregular", "echoes", "damaged pixels"],
)
def test_what_is_not_one_volume_is_refused_with_the_folder(tmp_path, make, message):
    with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path))}: {message}"):
        read_folder(write(tmp_path, make()))


def test_a_damaged_header_is_named_with_its_file(tmp_path):
    write(tmp_path, slices(places(HEIGHTS)))
    (tmp_path / "9.dcm").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"9\.dcm: got a DICOM file whose header cannot be used"):
        read_folder(tmp_path)
