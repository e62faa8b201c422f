from __future__ import annotations

import shutil

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage, UltrasoundMultiFrameImageStorage

from medsegdiff.data.dicom.series import find_series
from tests.data.dicom.synthetic import SERIES, contours, dataset, places, put_pixels, slices, write

HEIGHTS = np.arange(3) * 2.0


def _scan(folder):
    return find_series(sorted(path for path in folder.rglob("*") if path.is_file()))


def _one(folder):
    (series,) = _scan(folder).images
    return series


def test_files_are_grouped_by_series_whatever_their_folder_or_name(tmp_path):
    first = slices(places(HEIGHTS))
    second = slices(places(HEIGHTS), SeriesInstanceUID=f"{SERIES}.1")
    write(tmp_path / "a", [first[0], second[0], first[1]], names=["IM1", "IM2", "IM3.dcm"])
    write(tmp_path / "b", [second[1], first[2], contours()], names=["1.ima", "2", "RS"])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes(b"directory")
    scan = _scan(tmp_path)
    assert [(series.first.series_uid, len(series.frames)) for series in scan.images] == [
        (SERIES, 3),
        (f"{SERIES}.1", 2),
    ]
    assert [series.first.no_image for series in scan.others] == ["contours"]
    assert (scan.copies, scan.ignored, scan.damaged) == (0, 1, ())


def test_copies_are_counted_once(tmp_path):
    write(tmp_path / "a", slices(places(HEIGHTS)))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    scan = _scan(tmp_path)
    assert len(scan.images[0].frames) == 3
    assert scan.copies == 3


def test_one_uid_for_different_files_makes_no_copies(tmp_path):
    datasets = slices(places([*HEIGHTS, 0.0]), SOPInstanceUID="1.2.3")
    scan = _scan(write(tmp_path, datasets))
    assert len(scan.images[0].frames) == 4
    assert scan.copies == 0


def test_without_uid_folder_number_and_description_make_a_series(tmp_path):
    for folder, description in (("a", "T2"), ("b", "T2"), ("b", "T1")):
        datasets = slices(places(HEIGHTS), SeriesDescription=description)
        for data in datasets:
            del data.SeriesInstanceUID
        write(tmp_path / folder, datasets, names=[f"{description}_{i}.dcm" for i in range(3)])
    assert [len(series.frames) for series in _scan(tmp_path).images] == [3, 3, 3]


def test_a_damaged_file_is_reported_beside_the_rest(tmp_path):
    write(tmp_path, slices(places(HEIGHTS)))
    (tmp_path / "broken.dcm").write_bytes(b"broken")
    scan = _scan(tmp_path)
    assert len(scan.images[0].frames) == 3
    (error,) = scan.damaged
    assert str(error).startswith(f"{tmp_path}/broken.dcm: got a DICOM file whose header cannot be used")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, None),
        ({"ImageType": [["DERIVED", "SECONDARY", "AXIAL"]] * 3}, None),
        ({"ImageType": [["ORIGINAL", "PRIMARY", "LOCALIZER"]] * 3}, "a localiser"),
        ({"ImageType": "LOCALIZER"}, "a localiser"),
        ({"ImageType": [["ORIGINAL", "PRIMARY", "LOCALIZER"], "", ""]}, None),
        ({"SeriesDescription": "3-plane Localizer"}, "a localiser"),
        ({"SeriesDescription": "t2_localiser_sag"}, "a localiser"),
        ({"SeriesDescription": "Scout"}, "a localiser"),
        ({"SeriesDescription": "Allocation of blood"}, None),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "a secondary capture, such as a picture of a screen"),
        ({"SOPClassUID": f"{SecondaryCaptureImageStorage}.2"}, "a secondary capture, such as a picture of a screen"),
        ({"SOPClassUID": f"{SecondaryCaptureImageStorage}1"}, None),
        ({"Modality": "DX", "ImagePositionPatient": None}, "pictures without a place in the patient"),
        ({"ImagePositionPatient": None}, None),
    ],
)
def test_what_is_left_aside_and_what_is_not(tmp_path, attributes, reason):
    assert _one(write(tmp_path, slices(places(HEIGHTS), **attributes))).why_no_volume() == reason


def test_a_single_slice_is_left_aside(tmp_path):
    assert _one(write(tmp_path, slices(places([0.0])))).why_no_volume() == "a single slice"


def test_a_film_is_left_aside(tmp_path):
    data = dataset(UltrasoundMultiFrameImageStorage, 1, Modality="US", NumberOfFrames=4)
    put_pixels(data, np.zeros((4, 5, 6), np.uint16))
    assert _one(write(tmp_path, [data])).why_no_volume() == "pictures without a place in the patient"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T2 axial", "T2 axial"),
        ("T2 DOE axial", "T2  axial"),
        ("MRN-4711_T2", "_T2"),
        ("mrn-4711", ""),
        ("doe_jane_19500102", "__"),
        ("doermann janet", "doermann janet"),
    ],
)
def test_words_that_name_the_patient_are_taken_out(tmp_path, text, expected):
    assert _scan(write(tmp_path, slices(places(HEIGHTS)))).without_identity(text) == expected
