from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from data_prep import amos
from data_prep.amos import ABOUT, main, validation_parts
from data_prep.settings import VolumeSettings
from medsegdiff.data.datalist import msd_datalist
from medsegdiff.data.splits import PARTS, proportional

TRAINING = ["amos_0001", "amos_0004", "amos_0005"]
# Not in the order of their names.
VALIDATION = ["amos_0400", "amos_0013", "amos_0500", "amos_0008"]
MR = {"Tr": ["amos_0507"], "Va": ["amos_0541", "amos_0600"], "Ts": ["amos_0557"]}
TEST = ["amos_0002", "amos_0003"]


@pytest.fixture
def source(tmp_path, save_volume, label_volume):
    """The published folder: CT and MR for training and validation, and images for test."""
    root = tmp_path / "amos22"
    parts = {"Tr": TRAINING, "Va": VALIDATION, "Ts": TEST}
    for part, names in parts.items():
        for seed, name in enumerate([*names, *MR[part]]):
            save_volume(root / f"images{part}" / f"{name}.nii.gz", seed=seed)
            if part != "Ts":
                save_volume(root / f"labels{part}" / f"{name}.nii.gz", label_volume(*range(16)))
    _write_lists(root, [MR["Va"][0], *VALIDATION, MR["Va"][1]])
    return root


def _write_lists(root, validation):
    content = {
        "name": "AMOS",
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in TRAINING],
        "validation": [
            {"image": f"./imagesVa/{name}.nii.gz", "label": f"./labelsVa/{name}.nii.gz"} for name in validation
        ],
    }
    (root / "dataset.json").write_text(json.dumps(content))


def convert(source, output, **options):
    return amos.convert(source, output, settings=VolumeSettings(workers=1, **options))


def test_ct_is_kept_and_the_rest_counted(source, tmp_path, volumes_back):
    output = tmp_path / "out"
    conversion = convert(source, output)
    assert conversion.kept == tuple(sorted(TRAINING + VALIDATION))
    assert conversion.misfits == ()
    assert conversion.left_out == {"MR": 4, "CT of the published test part": 2}
    assert json.loads((output / "misfits.json").read_text())["left_out"] == conversion.left_out
    item = volumes_back(output, channels=1, num_classes=16)[0]
    np.testing.assert_array_equal(item["image"][0], nibabel.load(source / "imagesTr" / "amos_0001.nii.gz").dataobj)
    assert (output / "labelsTr" / "amos_0013.nii.gz").read_bytes() == (
        source / "labelsVa" / "amos_0013.nii.gz"
    ).read_bytes()
    names = json.loads((output / "dataset.json").read_text())["labels"]
    assert (names["1"], names["6"], names["8"], names["15"]) == ("spleen", "liver", "aorta", "prostate or uterus")
    assert len(set(ABOUT.classes)) == 16


def test_the_published_list_is_divided_in_its_order(source, tmp_path):
    conversion = convert(source, tmp_path / "out")
    assert conversion.split == {
        "training": TRAINING,
        "validation": VALIDATION[:1],
        "test": sorted(VALIDATION[1:]),
    }
    datalist = msd_datalist(tmp_path / "out")
    assert {part: [item["case"] for item in datalist[part]] for part in PARTS} == conversion.split


@pytest.mark.parametrize("content", [None, "no JSON", "{}", '{"validation": [{}]}', '{"validation": 3}', "[]"])
def test_without_a_list_the_names_are_the_order(source, tmp_path, content, caplog):
    if content is None:
        (source / "dataset.json").unlink()
    else:
        (source / "dataset.json").write_text(content)
    assert convert(source, tmp_path / "out").split["validation"] == ["amos_0008"]
    assert "6 of 6 validation cases are in no published list" in caplog.text


def test_a_case_that_the_list_lacks_comes_last(source, tmp_path, caplog):
    _write_lists(source, VALIDATION[1:])
    split = convert(source, tmp_path / "out").split
    assert split["validation"] == [VALIDATION[1]]
    assert VALIDATION[0] in split["test"]
    assert "3 of 6 validation cases are in no published list" in caplog.text


def test_a_misfit_keeps_its_place_in_the_order(source, tmp_path, save_volume, label_volume):
    save_volume(source / "labelsVa" / f"{VALIDATION[1]}.nii.gz", label_volume(0, 16))
    save_volume(source / "imagesTr" / "amos_0009.nii.gz")
    (source / "labelsVa" / f"{VALIDATION[2]}.nii.gz").unlink()
    conversion = convert(source, tmp_path / "out")
    assert {misfit.case: misfit.reason for misfit in conversion.misfits}.keys() == {
        VALIDATION[1],
        VALIDATION[2],
        "amos_0009",
    }
    reasons = {misfit.case: misfit.reason for misfit in conversion.misfits}
    assert "labelsVa/amos_0013.nii.gz: got the label values 16" in reasons[VALIDATION[1]]
    assert reasons[VALIDATION[2]] == "imagesVa/amos_0500.nii.gz: an image without a label"
    assert reasons["amos_0009"] == "imagesTr/amos_0009.nii.gz: an image without a label"
    assert conversion.split["validation"] == VALIDATION[:1]
    assert conversion.split["test"] == [VALIDATION[3]]


def test_of_a_hundred_the_first_ten_are_for_validation():
    names = [f"amos_{index:04}" for index in range(100, 0, -1)]
    parts = validation_parts(names)
    assert [name for name in names if parts[name] == "validation"] == names[:10]
    assert [name for name in names if parts[name] == "test"] == names[10:]


def test_training_cases_alone_get_a_seeded_split(source, tmp_path):
    for part in ("imagesVa", "labelsVa"):
        (source / part).rename(tmp_path / part)
    assert convert(source, tmp_path / "out").split == proportional(TRAINING)


@pytest.mark.parametrize("kind", ["zip", "folder of a zip", "folder around"])
def test_the_archive_and_folders_around_it(source, tmp_path, pack, contents, kind):
    convert(source, tmp_path / "expected")
    around = tmp_path / "around"
    around.mkdir()
    source.rename(around / source.name)
    given = around
    if kind != "folder around":
        given = pack(around, tmp_path / "download" / "amos22.zip")
        given = given if kind == "zip" else given.parent
    convert(given, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_the_command(source, tmp_path, capsys):
    assert main([str(source), "--output", str(tmp_path / "out"), "--link", "--workers", "1"]) == 0
    line = capsys.readouterr().out
    assert "kept 7 pairs (3 training, 1 validation, 3 test), 0 misfits, left out 4 MR" in line
    assert (tmp_path / "out" / "splits" / "amos_ct_3_1_3.json").exists()


@pytest.mark.real_data
def test_a_real_ct_with_labels_of_another_atlas(data_root, tmp_path):
    real = data_root / "totalsegmentator"
    folder = tmp_path / "amos22"
    for name, image, label in (
        ("amos_0001", "example_ct_sm.nii.gz", "example_seg_fast.nii.gz"),
        ("amos_0002", "example_ct_sm.nii.gz", "organs.nii.gz"),
    ):
        for kind, file in (("imagesTr", image), ("labelsTr", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if file == "organs.nii.gz":
                truth = nibabel.load(real / "example_seg_fast.nii.gz")
                array = np.asarray(truth.dataobj)
                organs = np.where(array < 16, array, 0).astype(np.uint8)
                nibabel.save(nibabel.Nifti1Image(organs, truth.affine), folder / kind / f"{name}.nii.gz")
            else:
                (folder / kind / f"{name}.nii.gz").symlink_to(real / file)
    conversion = convert(folder, tmp_path / "out")
    assert conversion.kept == ("amos_0002",)
    assert "labelsTr/amos_0001.nii.gz: got the label values" in conversion.misfits[0].reason


def test_classes_are_called_as_in_the_bundle(repository):
    train = json.loads((repository / "bundles" / "amos_ct" / "train.json").read_text())
    assert list(ABOUT.classes) == train["class_names"]
