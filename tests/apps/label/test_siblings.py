from __future__ import annotations

import pytest

from medsegdiff.apps.label.siblings import sibling_files, sibling_series
from medsegdiff.errors import DataError

MODALITIES = [["t1", "t1n"], ["t1ce", "t1c"], ["t2"], ["flair"]]


def _touch(folder, *names):
    for name in names:
        (folder / f"{name}.nii.gz").touch()
    return folder


def test_files_of_a_case_come_in_the_order_of_the_channels(tmp_path):
    _touch(tmp_path, "a_t1", "a_t1ce", "a_t2", "a_flair", "b_t1", "b_flair", "b_t2", "b_t1c", "notes")
    files = sibling_files(tmp_path / "b_flair.nii.gz", MODALITIES)
    assert [file.name.split(".")[0] for file in files] == ["b_t1", "b_t1c", "b_t2", "b_flair"]


def test_a_missing_modality_of_this_case_is_named(tmp_path):
    _touch(tmp_path, "a_t1", "a_t1ce", "a_t2", "b_t1", "b_t1ce", "b_t2", "b_flair")
    with pytest.raises(DataError, match=r"a: .*without flair"):
        sibling_files(tmp_path / "a_t2.nii.gz", MODALITIES)
    assert len(sibling_files(tmp_path / "b_t2.nii.gz", MODALITIES)) == 4


def test_a_file_of_another_name_stands_alone(tmp_path):
    _touch(tmp_path, "a_t1", "whole")
    assert sibling_files(tmp_path / "whole.nii.gz", MODALITIES) == [tmp_path / "whole.nii.gz"]


SERIES = {"1": "AX T1", "2": "AX T1 post T1CE", "3": "t2_tse_ax", "4": "FLAIR-ax", "5": "localizer"}


@pytest.mark.parametrize("asked", ["1", "2", "3", "4"])
def test_series_of_a_study_are_told_by_their_descriptions(asked):
    assert sibling_series(asked, SERIES, MODALITIES) == ["1", "2", "3", "4"]


def test_a_study_without_a_modality_is_refused():
    with pytest.raises(DataError, match="no series of flair"):
        sibling_series("1", {uid: text for uid, text in SERIES.items() if uid != "4"}, MODALITIES)


def test_of_two_series_of_one_modality_the_one_that_is_shown_counts():
    twice = {**SERIES, "6": "T2 repeated"}
    assert sibling_series("6", twice, MODALITIES) == ["1", "2", "6", "4"]
    with pytest.raises(DataError, match="2 series of t2"):
        sibling_series("1", twice, MODALITIES)


def test_a_series_that_is_no_modality_is_refused():
    with pytest.raises(DataError, match="none of the modalities"):
        sibling_series("5", SERIES, MODALITIES)
