from __future__ import annotations

import shutil

import pytest

from data_prep.conversion import Misfit
from data_prep.folders import files_below
from data_prep.volume_folders import common_root, paired_volumes


@pytest.fixture
def files(tmp_path, save_volume):
    """Lists the files of `tmp_path / "task"` and below, where pairs a and b lie."""
    for name in ("a", "b"):
        for folder in ("imagesTr", "labelsTr"):
            save_volume(tmp_path / "task" / folder / f"{name}.nii.gz")

    def make():
        return {path.relative_to(tmp_path).as_posix(): path for path in files_below(tmp_path)}

    return make


def test_pairs_are_found_below_any_folder(files, tmp_path):
    cases, misfits = paired_volumes(files(), modality="CT", part="training")
    root = tmp_path / "task"
    assert misfits == []
    assert [case.name for case in cases] == ["a", "b"]
    assert cases[0].images == {"CT": root / "imagesTr" / "a.nii.gz"}
    assert cases[0].label == root / "labelsTr" / "a.nii.gz"
    assert cases[0].part == "training"
    assert cases[0].values is None


def test_the_folders_that_lie_least_deep_count(files, tmp_path):
    shutil.copytree(tmp_path / "task", tmp_path / "task" / "backup" / "task")
    assert common_root(files(), "imagesTr", "labelsTr") == tmp_path / "task"
    shutil.rmtree(tmp_path / "task" / "labelsTr")
    assert common_root(files(), "imagesTr", "labelsTr") == tmp_path / "task" / "backup" / "task"


def test_without_either_folder_there_is_nothing(files):
    assert common_root(files(), "imagesTr", "labelsVa") is None
    assert paired_volumes(files(), modality="CT", images="imagesVa", labels="labelsVa") == ([], [])


@pytest.mark.parametrize("folders", [("imagesTr", "labelsVa"), ("imagesVa", "labelsTr")])
def test_the_files_of_one_folder_alone_are_misfits(files, folders):
    images, labels = folders
    cases, misfits = paired_volumes(files(), modality="CT", images=images, labels=labels)
    assert cases == []
    assert [misfit.case for misfit in misfits] == ["a", "b"]


def test_what_is_not_one_pair_is_a_misfit(files, tmp_path, save_volume):
    root = tmp_path / "task"
    alone = [save_volume(root / "imagesTr" / "c.nii"), save_volume(root / "labelsTr" / "d.nii")]
    twice = save_volume(root / "imagesTr" / "a.nii")
    cases, misfits = paired_volumes(files(), modality="CT")
    assert [case.name for case in cases] == ["b"]
    assert misfits == [
        Misfit("c", f"{alone[0]}: an image without a label"),
        Misfit("d", f"{alone[1]}: a label without an image"),
        Misfit("a", f"{twice}, {twice}.gz, {root / 'labelsTr' / 'a.nii.gz'}: several files of one case"),
    ]
