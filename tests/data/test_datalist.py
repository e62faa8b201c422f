from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from medsegdiff.data.datalist import all_cases, msd_datalist, pair_files
from medsegdiff.data.splits import PARTS, fold_split, kfold, proportional, write_folds, write_split
from medsegdiff.errors import DataError, SpecError

NAMES = [f"case_{index:02}" for index in range(10)]


def _folder(path, names=NAMES, images="imagesTr", labels="labelsTr") -> Path:
    """Data lists look at names only, so that empty files do."""
    for folder in (path / images, path / labels):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / f"{name}.nii.gz").touch()
    return path


def _dataset_json(folder, names=NAMES, **more):
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    (folder / "dataset.json").write_text(json.dumps({"training": training, "test": ["./imagesTs/x.nii.gz"]} | more))


def _names(datalist) -> dict[str, list[str]]:
    return {part: [item["case"] for item in datalist[part]] for part in PARTS}


@pytest.mark.parametrize("folders", [("imagesTr", "labelsTr"), ("images", "labels")])
def test_files_of_one_name_are_a_pair(tmp_path, folders):
    items = all_cases(_folder(tmp_path, NAMES[:2], *folders))
    assert items == [
        {
            "image": str(tmp_path / folders[0] / f"{name}.nii.gz"),
            "label": str(tmp_path / folders[1] / f"{name}.nii.gz"),
            "case": name,
        }
        for name in NAMES[:2]
    ]


def test_image_and_label_may_have_different_suffixes(tmp_path):
    for name in ("images/one.jpg", "labels/one.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert [item["case"] for item in all_cases(tmp_path)] == ["one"]


def test_a_dataset_json_says_which_cases_there_are(tmp_path):
    _dataset_json(_folder(tmp_path), NAMES[:3])
    items = all_cases(tmp_path)
    assert [item["case"] for item in items] == NAMES[:3]
    assert all(Path(item[key]).is_file() for item in items for key in ("image", "label"))


def test_several_images_of_one_case_stay_a_list(tmp_path):
    _folder(tmp_path, ["a_t1", "a_t2", "a"])
    entry = {"image": ["imagesTr/a_t1.nii.gz", "imagesTr/a_t2.nii.gz"], "label": "labelsTr/a.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    (item,) = all_cases(tmp_path)
    assert item["case"] == "a"
    assert item["image"] == [str(tmp_path / image) for image in entry["image"]]


def test_a_missing_modality_of_a_case_is_named(tmp_path):
    _folder(tmp_path, ["a_t1", "a"])
    entry = {"image": ["imagesTr/a_t1.nii.gz", "imagesTr/a_t2.nii.gz"], "label": "labelsTr/a.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    with pytest.raises(DataError, match=r"imagesTr/a_t2.nii.gz: there is no such file, though dataset.json lists it"):
        all_cases(tmp_path)


def test_listed_cases_without_files_are_left_out_and_counted(tmp_path, caplog):
    _dataset_json(_folder(tmp_path, NAMES[:3]))
    assert len(all_cases(tmp_path)) == 3
    assert re.search(r"left out 7 of 10 cases whose files are missing, such as \S+\.nii\.gz", caplog.text)


def test_files_without_partner_and_hidden_files_are_left_out(tmp_path, caplog):
    _folder(tmp_path)
    (tmp_path / "imagesTr" / "alone.nii.gz").touch()
    (tmp_path / "labelsTr" / "lonely.nii.gz").touch()
    (tmp_path / "imagesTr" / "notes.txt").touch()
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder / "._case_00.nii.gz").touch()
    assert [item["case"] for item in all_cases(tmp_path)] == NAMES
    assert "left out 2 files without a partner" in caplog.text
    pairing = pair_files(tmp_path / "imagesTr", tmp_path / "labelsTr")
    assert list(pairing.images_without_label) == ["alone"]
    assert list(pairing.labels_without_image) == ["lonely"]


def test_without_a_file_the_split_is_seeded(tmp_path):
    datalist = msd_datalist(_folder(tmp_path), seed=5)
    assert _names(datalist) == proportional(NAMES, seed=5)
    assert datalist["test"][0]["image"].endswith(".nii.gz")


def test_a_split_file_is_followed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    split = {"training": NAMES[:5], "validation": NAMES[5:6], "test": NAMES[6:]}
    write_split(tmp_path / "split.json", split)
    assert _names(msd_datalist(_folder(tmp_path), split_file=tmp_path / "split.json", seed=9)) == split
    assert "5 training, 1 validation, 4 test cases, split by" in caplog.text


def test_names_that_only_one_side_knows_go_to_no_part(tmp_path, caplog):
    write_split(tmp_path / "split.json", {"training": ["x", *NAMES[:3]], "validation": ["y"], "test": NAMES[3:5]})
    datalist = msd_datalist(_folder(tmp_path), split_file=tmp_path / "split.json")
    assert _names(datalist) == {"training": NAMES[:3], "validation": [], "test": NAMES[3:5]}
    assert "2 of its 7 cases are not in the data" in caplog.text
    assert "5 cases of the data are in no part of it" in caplog.text


def test_a_split_of_other_data_gives_way_to_a_seeded_one(tmp_path, caplog):
    write_split(tmp_path / "split.json", {"training": ["x"], "validation": ["y"], "test": ["z"]})
    datalist = msd_datalist(_folder(tmp_path), split_file=tmp_path / "split.json", seed=2)
    assert _names(datalist) == proportional(NAMES, seed=2)
    assert "none of its 3 cases is in the data; a seeded split is used instead" in caplog.text


def test_a_split_of_other_data_gives_way_to_that_of_the_dataset_json(tmp_path, caplog):
    own = {"training": NAMES[:5], "validation": NAMES[5:6], "test": NAMES[6:]}
    write_split(tmp_path / "splits" / "own.json", own)
    write_split(tmp_path / "bundle.json", {"training": ["x"], "validation": ["y"], "test": ["z"]})
    _dataset_json(_folder(tmp_path), splits="splits/own.json")
    assert _names(msd_datalist(tmp_path, split_file=tmp_path / "bundle.json", seed=2)) == own
    assert re.search(r"bundle\.json: none of its 3 cases is in the data; \S+own\.json is used instead", caplog.text)
    write_split(tmp_path / "splits" / "own.json", {"training": ["u"], "validation": ["v"], "test": ["w", "x"]})
    caplog.clear()
    assert _names(msd_datalist(tmp_path, split_file=tmp_path / "bundle.json", seed=2)) == proportional(NAMES, seed=2)
    assert "own.json: none of its 4 cases is in the data; a seeded split is used instead" in caplog.text


@pytest.mark.parametrize("spelling", [lambda name: name, lambda name: {"default": name}])
def test_a_dataset_json_may_name_its_split(tmp_path, spelling):
    split = {"training": NAMES[:5], "validation": NAMES[5:6], "test": NAMES[6:]}
    write_split(tmp_path / "splits" / "mine.json", split)
    _dataset_json(_folder(tmp_path), splits=spelling("splits/mine.json"))
    assert _names(msd_datalist(tmp_path)) == split
    other = {"training": NAMES[5:], "validation": NAMES[:1], "test": NAMES[1:5]}
    write_split(tmp_path / "other.json", other)
    assert _names(msd_datalist(tmp_path, split_file=tmp_path / "other.json")) == other


@pytest.mark.parametrize("source", ["seed", "file", "dataset.json"])
def test_a_fold_is_the_test_part(tmp_path, source):
    folds = kfold(NAMES, folds=5, seed=3 if source == "seed" else 4)
    write_folds(tmp_path / "folds.json", folds)
    _dataset_json(_folder(tmp_path), splits={"folds": "folds.json"} if source == "dataset.json" else {})
    split_file = tmp_path / "folds.json" if source == "file" else None
    datalist = msd_datalist(tmp_path, split_file=split_file, fold=2, folds=5, seed=3)
    assert _names(datalist) == fold_split(folds, fold=2, seed=3)
    assert _names(datalist)["test"] == folds[2]


def test_a_fold_needs_a_file_of_folds_and_the_reverse(tmp_path):
    _folder(tmp_path)
    write_folds(tmp_path / "folds.json", kfold(NAMES))
    write_split(tmp_path / "split.json", proportional(NAMES))
    with pytest.raises(SpecError, match="got 4 folds and no fold to test on; allowed are 0 to 3; give fold"):
        msd_datalist(tmp_path, split_file=tmp_path / "folds.json")
    with pytest.raises(SpecError, match="got fold=1 for a file without folds"):
        msd_datalist(tmp_path, split_file=tmp_path / "split.json", fold=1)
    with pytest.raises(SpecError, match="got fold=4; allowed are 0 to 3"):
        msd_datalist(tmp_path, fold=4)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent: there is no such folder; give the folder that holds dataset\.json"):
        msd_datalist(tmp_path / "absent")


@pytest.mark.parametrize("content", ["nothing", "no labels", "other names"])
def test_a_folder_without_pairs_is_refused(tmp_path, content):
    if content != "nothing":
        _folder(tmp_path, NAMES[:1])
        label = tmp_path / "labelsTr" / f"{NAMES[0]}.nii.gz"
        label.unlink() if content == "no labels" else label.rename(label.with_name("other.nii.gz"))
    with pytest.raises(DataError, match=r"got no pair of image and label; allowed is a folder with dataset\.json"):
        msd_datalist(tmp_path)


def test_one_case_listed_twice_is_refused(tmp_path):
    _dataset_json(_folder(tmp_path), [*NAMES, NAMES[3]])
    with pytest.raises(DataError, match=r"dataset\.json: got two files for the case case_03; allowed is one"):
        all_cases(tmp_path)


def test_two_files_of_one_case_are_refused(tmp_path):
    _folder(tmp_path)
    (tmp_path / "imagesTr" / f"{NAMES[0]}.nii").touch()
    with pytest.raises(DataError, match="got two files for the case case_00; allowed is one"):
        all_cases(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "got a JSON list; allowed is the object of an MSD task"),
        ('{"training": ["a.nii.gz"]}', "got the training entry 'a.nii.gz'; allowed is"),
        ('{"training": "a.nii.gz"}', "got the training entry None; allowed is"),
        ("{}", "got no pair of image and label"),
    ],
)
def test_a_broken_dataset_json_is_refused(tmp_path, content, message):
    (_folder(tmp_path) / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=message):
        msd_datalist(tmp_path)


@pytest.mark.real_data
def test_the_real_hippocampi_fall_into_the_parts_of_the_tables(data_root, repository):
    split_file = repository / "bundles" / "hippocampus" / "configs" / "split_144_16_40.json"
    datalist = msd_datalist(data_root / "hippocampus", split_file=split_file)
    assert [len(datalist[part]) for part in PARTS] == [144, 16, 40]
    folds_file = split_file.with_name("folds.json")
    assert len(msd_datalist(data_root / "hippocampus", split_file=folds_file, fold=3)["test"]) == 50
