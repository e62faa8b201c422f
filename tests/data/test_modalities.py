"""Which files are the channels of one image."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsegdiff.data.modalities import CaseNames, bundle_modalities, group_modalities, image_name
from medsegdiff.errors import DataError

BRATS = [["t1", "t1n"], ["t1ce", "t1c"], ["t2", "t2w"], ["flair", "t2f"]]


def files(*names: str, folder: str = "d") -> list[Path]:
    return [Path(folder) / f"{name}.nii.gz" for name in names]


@pytest.mark.parametrize(
    "endings",
    [("_t1", "_t1ce", "_t2", "_flair"), ("-t1n", "-t1c", "-t2w", "-t2f"), ("_0000", "_0001", "_0002", "_0003")],
    ids=["2021", "2023", "nnU-Net"],
)
def test_files_come_in_the_order_of_the_channels_whatever_they_are_called(endings):
    given = files(*(f"BraTS-GLI_00001{ending}" for ending in endings))
    shuffled = [given[2], given[0], given[3], given[1]]
    assert group_modalities([*shuffled, *files("BraTS-GLI_00001_seg")], BRATS) == {"BraTS-GLI_00001": given}


def test_capitals_do_not_matter():
    given = files("a_T1", "a_T1ce", "a_T2", "a_FLAIR")
    assert group_modalities(given, BRATS) == {"a": given}


def test_cases_of_one_name_in_two_folders_are_two_cases():
    names = ("p_t1", "p_t1ce", "p_t2", "p_flair")
    first, second = files(*names, folder="d/one"), files(*names, folder="d/two")
    assert group_modalities([*second, *first], BRATS) == {"one_p": first, "two_p": second}


def test_names_without_a_modality_are_no_group():
    assert group_modalities(files("hippocampus_001", "case_0007", "t1"), BRATS) == {}


def test_a_missing_modality_is_named():
    with pytest.raises(DataError, match=r"d/p: got p_t1.*p_flair.*without t1ce, t2; needed"):
        group_modalities(files("p_t1", "p_flair"), BRATS)


def test_two_files_of_one_modality_are_refused():
    with pytest.raises(DataError, match="second file of t1ce of the case p beside p_t1c"):
        group_modalities(files("p_t1c", "p_t1ce"), BRATS)


def test_misfits_are_told_and_the_other_cases_kept():
    sound = [f"r_{names[0]}" for names in BRATS]
    misfits = []
    assert list(group_modalities(files("p_t1", "q_t1c", "q_t1ce", *sound), BRATS, misfits=misfits)) == ["r"]
    assert [str(error).split(":")[0] for error in misfits] == ["d/q_t1ce.nii.gz", "d/p"]


@pytest.mark.parametrize(
    ("file", "subject"),
    [("d/p_1_t1.nii.gz", "d/p_1.nii.gz"), ("d/p_0000.nii.gz", "d/p.nii.gz"), ("d/p_1.nii.gz", "d/p_1.nii.gz")],
)
def test_results_are_named_after_the_case(file, subject):
    assert CaseNames(BRATS)({"filename_or_obj": file}, saver=None) == {"subject": subject, "idx": None}


@pytest.mark.parametrize(
    ("name", "case"), [("a_b_t1ce", "a_b"), ("a-T2W", "a"), ("a_seg", "a_seg"), ("a_0007", "a_0007")]
)
def test_a_case_is_called_after_its_file_without_the_modality(name, case):
    assert image_name(f"d/{name}.nii.gz", BRATS) == case
    assert image_name(f"d/{name}.nii.gz", None) == name


def test_the_modalities_of_a_bundle_are_those_of_its_inference(repository, tmp_path):
    assert bundle_modalities(repository / "bundles" / "brats" / "configs" / "inference.json") == BRATS
    assert bundle_modalities(repository / "bundles" / "hippocampus" / "configs" / "inference.json") is None
    assert bundle_modalities(tmp_path / "none.json") is None
