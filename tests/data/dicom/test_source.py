from __future__ import annotations

import re

import numpy as np
import pytest

from medsegdiff.data.dicom.source import read_source
from medsegdiff.errors import DataError
from tests.data.dicom.synthetic import enhanced, places, slices, write

HEIGHTS = np.arange(3) * 2.0


def test_slices_come_in_the_order_of_the_grid_with_the_numbers_of_the_header(tmp_path):
    series = slices(places(HEIGHTS)[[2, 0, 1]])
    source = read_source(write(tmp_path, series))
    headers = source.slice_headers()
    assert [header.SOPInstanceUID for header in headers] == [series[i].SOPInstanceUID for i in (1, 2, 0)]
    for header, image in zip(headers, (series[1], series[2], series[0]), strict=True):
        assert header.ImagePositionPatient == image.ImagePositionPatient
        assert header.PixelSpacing == image.PixelSpacing


def test_the_headers_of_slices_name_no_patient(tmp_path):
    source = read_source(write(tmp_path, slices(places(HEIGHTS))))
    assert source.first.PatientName == "Doe^Jane"
    assert not any("Doe" in str(header) or "4711" in str(header) for header in source.slice_headers())


def test_frames_of_one_file_share_its_uid(tmp_path):
    image = enhanced(places(HEIGHTS))
    source = read_source(write(tmp_path, [image]))
    assert [header.SOPInstanceUID for header in source.slice_headers()] == [image.SOPInstanceUID] * 3


def test_what_is_no_series_is_refused(tmp_path):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"image\.nii\.gz: got an image that is no DICOM series; .* nifti$"):
        read_source(path)
    with pytest.raises(DataError, match="no DICOM series"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"StudyInstanceUID": ""}, "got no StudyInstanceUID in 0.dcm; a DICOM-SEG refers to"),
        ({"SOPInstanceUID": "1.2.3"}, "got 3 files that share 1 SOPInstanceUIDs; a DICOM-SEG refers to"),
    ],
)
def test_images_that_cannot_be_referred_to_are_refused(tmp_path, attributes, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_source(write(tmp_path, slices(places(HEIGHTS), **attributes)))


@pytest.mark.real_data
def test_a_real_series_whose_study_was_removed_is_refused(data_root):
    with pytest.raises(DataError, match="got no StudyInstanceUID in CT"):
        read_source(data_root / "totalsegmentator" / "example_ct_dicom")
