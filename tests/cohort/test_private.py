from __future__ import annotations

from pathlib import Path

import pytest

from medsegdiff.cohort.private import file_names, without_folders


def test_files_are_named_without_their_folders():
    assert file_names([Path("doe/t1.nii.gz")]) == "t1.nii.gz"
    assert file_names([Path("doe/t1.nii.gz"), Path("doe/t2.nii.gz")]) == ["t1.nii.gz", "t2.nii.gz"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{here}/doe/t1: got no series", "t1: got no series"),
        ("doe/t1/1.dcm and doe/t2: differ", "t1/1.dcm and t2: differ"),
        ("({here}/doe/t1/1.dcm)", "(t1/1.dcm)"),
        ("john/doe/t1: of another", "john/doe/t1: of another"),
        ("half a pixel a mm/voxel", "half a pixel a mm/voxel"),
    ],
)
def test_a_text_loses_the_folders_above_of_given_and_absolute_paths(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert without_folders(text.format(here=tmp_path), [Path("doe/t1"), Path("a.nii")]) == expected


def test_the_folder_above_all_is_no_name():
    assert without_folders("1 / 2 of /a.nii", [Path("/a.nii")]) == "1 / 2 of /a.nii"
