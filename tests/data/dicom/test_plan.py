from __future__ import annotations

import numpy as np
import pytest

from medsegdiff.data.dicom.plan import Selection, plan
from medsegdiff.data.dicom.series import find_series
from tests.data.dicom.synthetic import SERIES, STUDY, contours, places, slices, write

HEIGHTS = np.arange(3) * 2.0


def _series(number, description="", heights=HEIGHTS, **attributes):
    uid = attributes.pop("SeriesInstanceUID", f"{SERIES}.{number}")
    return slices(
        places(heights), SeriesNumber=number, SeriesDescription=description, SeriesInstanceUID=uid, **attributes
    )


def _plan(folder, *serieses, patterns=(), modalities=(), keep_ids=False):
    for index, datasets in enumerate(serieses):
        write(folder / f"{index:02}", datasets)
    scan = find_series(sorted(path for path in folder.rglob("*") if path.is_file()))
    return plan(scan, Selection(patterns=patterns, modalities=modalities), keep_ids=keep_ids)


def _names(items):
    return [item.name for item in items]


def test_names_are_case_number_and_description(tmp_path):
    items = _plan(tmp_path, _series(12, "T1 MPRAGE (p2) ISO"), _series(4, "t2_tse"), _series(5, "", modality="CT"))
    assert _names(items) == ["case_001_s004_t2_tse", "case_001_s005_ct", "case_001_s012_t1_mprage_p2_iso"]
    assert all(item.grid is not None and not item.skipped and not item.refused for item in items)


def test_studies_and_patients_are_cases_of_their_own(tmp_path):
    items = _plan(
        tmp_path,
        _series(1),
        _series(2),
        _series(3, StudyInstanceUID=f"{STUDY}.1"),
        _series(4, PatientID="another"),
    )
    assert [item.case for item in items] == ["case_001", "case_001", "case_002", "case_003"]


def test_no_two_names_are_the_same(tmp_path):
    items = _plan(tmp_path, *(_series(4, "T2", SeriesInstanceUID=f"{SERIES}.{i}") for i in range(3)))
    assert _names(items) == ["case_001_s004_t2", "case_001_s004_t2_2", "case_001_s004_t2_3"]


def test_parts_have_names_of_their_own(tmp_path):
    items = _plan(tmp_path, _series(4, "mGRE", np.tile(HEIGHTS, 2), EchoTime=["2.5"] * 3 + ["5"] * 3))
    assert _names(items) == ["case_001_s004_mgre_te_2_5", "case_001_s004_mgre_te_5"]
    assert [(item.part, item.slices) for item in items] == [("TE 2.5", 3), ("TE 5", 3)]


@pytest.mark.parametrize("description", ["../../etc/passwd", "a/b\\c:d*?", "Schädel ÜBERSICHT", "脳", "x" * 64])
def test_whatever_the_description_the_name_is_one_of_a_file(tmp_path, description):
    datasets = _series(4, description)
    for data in datasets:
        data.SpecificCharacterSet = "ISO_IR 192"
    (item,) = _plan(tmp_path, datasets)
    assert item.name.startswith("case_001_s004_")
    assert set(item.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert len(item.name) < 70


def test_nothing_that_is_said_names_the_patient_unless_asked_to(tmp_path):
    tilted = _series(5, "Doe^Jane", HEIGHTS, modality="CT")
    for index, data in enumerate(tilted):
        data.ImagePositionPatient = [0, index, index]
    write(tmp_path / "named", tilted, names=[f"DOE_{i}.dcm" for i in range(3)])
    serieses = [_series(4, "MRN-4711 T2")]
    hidden, refused = _plan(tmp_path, *serieses)
    assert (hidden.name, hidden.description) == ("case_001_s004_t2", "T2")
    assert refused.name == "case_001_s005_ct"
    assert "gantry tilt" in refused.refused and "DOE" not in refused.refused
    shown, refused = _plan(tmp_path, *serieses, keep_ids=True)
    assert (shown.name, shown.description) == ("MRN-4711_case_001_s004_mrn-4711_t2", "MRN-4711 T2")
    assert "DOE_0.dcm" in refused.refused


@pytest.mark.parametrize(
    ("patterns", "modalities", "wanted"),
    [
        ((), (), [2, 3]),
        (("t2*",), (), [2]),
        (("T*",), (), [2, 3]),
        (("T2",), (), []),
        (("scout",), (), [1]),
        ((f"{SERIES}.3",), (), [3]),
        (("scout", f"{SERIES}.3"), (), [1, 3]),
        ((), ("ct",), [3]),
        ((), ("CT", "MR"), [2, 3]),
        (("t2*",), ("CT",), []),
    ],
)
def test_what_is_selected(tmp_path, patterns, modalities, wanted):
    serieses = [_series(1, "Scout"), _series(2, "t2_tse"), _series(3, "Thorax", modality="CT")]
    items = _plan(tmp_path, *serieses, patterns=patterns, modalities=modalities)
    assert [item.header.series_number for item in items if not item.skipped] == wanted
    assert _names(items) == ["case_001_s001_scout", "case_001_s002_t2_tse", "case_001_s003_thorax"]


def test_what_is_no_image_is_never_selected(tmp_path):
    items = _plan(tmp_path, _series(4), [contours(SeriesNumber=9)], patterns=("*",))
    assert [(item.skipped, item.slices) for item in items] == [("", 3), ("contours", 0)]


def test_the_reason_is_that_of_the_selection(tmp_path):
    serieses = [_series(1, "Scout"), _series(2, "T2"), _series(3, "T1")]
    reasons = [item.skipped for item in _plan(tmp_path, *serieses, patterns=("T1",), modalities=("MR",))]
    assert reasons == ["not among the series asked for"] * 2 + [""]
    reasons = [item.skipped for item in _plan(tmp_path, *serieses, modalities=("CT",))]
    assert reasons == ["of another modality, MR"] * 3
    assert [item.skipped for item in _plan(tmp_path, *serieses)] == ["a localiser", "", ""]
