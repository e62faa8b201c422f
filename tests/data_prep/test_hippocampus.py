from __future__ import annotations

import json
import logging
import shutil
import tarfile
import zipfile

import nibabel
import numpy as np
import pytest

from data_prep import hippocampus
from data_prep.hippocampus import main
from data_prep.settings import VolumeSettings
from medsegdiff.data.datalist import msd_datalist
from medsegdiff.data.splits import PARTS, kfold, proportional, read_folds, read_split, write_split
from medsegdiff.errors import SpecError

NAMES = [f"hippocampus_{index:03}" for index in range(1, 9)]
SHAPE = (6, 5, 4)


@pytest.fixture
def source(tmp_path):
    """The published layout, with one of macOS's hidden copies, in eight tiny pairs."""
    root = tmp_path / "Task04_Hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
        (root / folder / f"._{NAMES[0]}.nii.gz").write_bytes(b"resource fork")
    for index, name in enumerate(NAMES):
        _save(root / "imagesTr" / f"{name}.nii.gz", np.random.default_rng(index).random(SHAPE, np.float32))
        label = np.zeros(SHAPE, np.uint8)
        label[1:3], label[3:5] = 1, 2
        _save(root / "labelsTr" / f"{name}.nii.gz", label)
    return root


def convert(source, output, **options):
    return hippocampus.convert(source, output, settings=VolumeSettings(workers=1, **options))


def _save(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def _archive(source, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in source.rglob("*.nii.gz"):
                packed.write(file, file.relative_to(source.parent))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            tar.add(source, source.name)
    return path


def _files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_a_checked_data_set(source, tmp_path):
    output = tmp_path / "out"
    conversion = convert(source, output)
    assert conversion.kept == tuple(NAMES)
    assert conversion.misfits == ()
    assert _files(output) == sorted(
        ["dataset.json", "misfits.json", "splits/folds.json", "splits/hippocampus_5_1_2.json"]
        + [f"{folder}/{name}.nii.gz" for folder in ("imagesTr", "labelsTr") for name in NAMES]
    )
    original, copy = (root / "imagesTr" / f"{NAMES[0]}.nii.gz" for root in (source, output))
    assert original.read_bytes() == copy.read_bytes()
    assert json.loads((output / "misfits.json").read_text()) == {"misfits": [], "remarks": [], "left_out": {}}


def test_the_description_is_that_of_the_decathlon(source, tmp_path):
    convert(source, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "Anterior", "2": "Posterior"}
    assert content["modality"] == {"0": "MRI"}
    assert content["licence"] == "CC-BY-SA 4.0"
    assert content["numTraining"] == len(content["training"]) == len(NAMES)
    assert content["training"][0] == {
        "image": f"./imagesTr/{NAMES[0]}.nii.gz",
        "label": f"./labelsTr/{NAMES[0]}.nii.gz",
    }


def test_splits_come_from_the_seed_and_the_data_list_follows_them(source, tmp_path):
    output = tmp_path / "out"
    conversion = convert(source, output, folds=3, seed=7)
    assert conversion.split == proportional(NAMES, seed=7) == read_split(output / "splits" / "hippocampus_5_1_2.json")
    assert read_folds(output / "splits" / "folds.json") == kfold(NAMES, folds=3, seed=7)
    datalist = msd_datalist(output)
    assert {part: [item["case"] for item in datalist[part]] for part in PARTS} == conversion.split
    assert [item["case"] for item in msd_datalist(output, fold=1)["test"]] == kfold(NAMES, folds=3, seed=7)[1]


def test_the_split_of_the_tables_is_taken_where_its_cases_are(source, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    table = {"training": NAMES[:4], "validation": NAMES[4:5], "test": NAMES[5:6]}
    write_split(tmp_path / "table.json", table)
    monkeypatch.setattr(hippocampus, "TABLE_SPLIT", tmp_path / "table.json")
    assert convert(source, tmp_path / "a").split == table
    assert "2 cases belong to no part of the split of the tables" in caplog.text
    assert convert(source, tmp_path / "b", seed=1).split == proportional(NAMES, seed=1)
    (source / "imagesTr" / f"{NAMES[0]}.nii.gz").unlink()
    assert convert(source, tmp_path / "c").split == proportional(NAMES[1:])


@pytest.mark.parametrize("name", ["Task04_Hippocampus.tar", "a.tar.gz", "a.zip"])
def test_an_archive_gives_what_its_folder_gives(source, tmp_path, name):
    convert(source, tmp_path / "a")
    convert(_archive(source, tmp_path / name), tmp_path / "b")
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    for file in ("dataset.json", "splits/folds.json", f"imagesTr/{NAMES[3]}.nii.gz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_links_point_to_the_source(source, tmp_path):
    convert(source, tmp_path / "out", link=True)
    link = tmp_path / "out" / "labelsTr" / f"{NAMES[0]}.nii.gz"
    assert link.is_symlink()
    assert link.resolve() == (source / "labelsTr" / f"{NAMES[0]}.nii.gz").resolve()


def _misfits(source):
    """Spoil four pairs and add three files without a pair; returns what the reasons must say."""
    images, labels = source / "imagesTr", source / "labelsTr"
    (images / f"{NAMES[0]}.nii.gz").write_bytes((images / f"{NAMES[0]}.nii.gz").read_bytes()[:200])
    _save(labels / f"{NAMES[1]}.nii.gz", np.ones((9, 9, 9), np.uint8))
    _save(labels / f"{NAMES[2]}.nii.gz", np.full(SHAPE, 3, np.uint8))
    _save(labels / f"{NAMES[3]}.nii.gz", np.zeros(SHAPE, np.uint8))
    _save(images / "hippocampus_900.nii.gz", np.ones(SHAPE, np.uint8))
    _save(labels / "hippocampus_901.nii.gz", np.ones(SHAPE, np.uint8))
    shutil.copy(images / f"{NAMES[4]}.nii.gz", images / "hippocampus_902.nii.gz")
    shutil.copy(images / f"{NAMES[4]}.nii.gz", images / "hippocampus_902.nii")
    return {
        NAMES[0]: f"imagesTr/{NAMES[0]}.nii.gz: cannot be read",
        NAMES[1]: f"labelsTr/{NAMES[1]}.nii.gz: got a grid of shape (9, 9, 9)",
        NAMES[2]: f"labelsTr/{NAMES[2]}.nii.gz: got the label values 3",
        NAMES[3]: f"labelsTr/{NAMES[3]}.nii.gz: got a label without foreground",
        "hippocampus_900": "imagesTr/hippocampus_900.nii.gz: an image without a label",
        "hippocampus_901": "labelsTr/hippocampus_901.nii.gz: a label without an image",
        "hippocampus_902": "imagesTr/hippocampus_902.nii, imagesTr/hippocampus_902.nii.gz: several files of one case",
    }


@pytest.mark.parametrize("archive", [False, True])
def test_misfits_are_reported_by_name_and_reason_and_not_kept(source, tmp_path, archive):
    expected = _misfits(source)
    output = tmp_path / "out"
    conversion = convert(_archive(source, tmp_path / "a.tar") if archive else source, output)
    assert conversion.kept == tuple(NAMES[4:])
    assert [misfit.case for misfit in conversion.misfits] == sorted(expected)
    for misfit in conversion.misfits:
        assert misfit.reason.replace(f"{source.name}/", "").startswith(expected[misfit.case])
        assert str(tmp_path) not in misfit.reason
    written = json.loads((output / "misfits.json").read_text())["misfits"]
    assert [(entry["case"], entry["reason"]) for entry in written] == [
        (misfit.case, misfit.reason) for misfit in conversion.misfits
    ]
    assert len(list((output / "imagesTr").iterdir())) == len(list((output / "labelsTr").iterdir())) == 4


def test_the_command_ends_with_the_misfits(source, tmp_path, capsys):
    expected = _misfits(source)
    assert main([str(source), "--output", str(tmp_path / "out"), "--folds", "2", "--copy", "--workers", "1"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert "kept 4 pairs (2 training, 1 validation, 1 test), 7 misfits" in first
    assert [line.split(":")[0].strip() for line in others] == sorted(expected)


def _no_archive(source, tmp_path):
    (tmp_path / "notes.tar").write_text("hello")
    return tmp_path / "notes.tar"


def _no_folders(source, tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def _no_pairs(source, tmp_path):
    shutil.rmtree(source / "labelsTr")
    (source / "labelsTr").mkdir()
    return source


def _all_spoilt(source, tmp_path):
    for path in (source / "labelsTr").glob("hippocampus*"):
        _save(path, np.zeros(SHAPE, np.uint8))
    return source


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda source, tmp_path: tmp_path / "absent.tar", "absent.tar: there is no such file or folder"),
        (_no_archive, "notes.tar: got a file that is no archive; allowed are tar, tar.gz and zip"),
        (_no_folders, "empty: got no sound pair and 0 misfits; allowed is the layout that --help describes"),
        (_no_pairs, "got no sound pair and 8 misfits, for instance hippocampus_001: imagesTr/hippocampus_001.nii.gz"),
        (_all_spoilt, "got no sound pair and 8 misfits"),
    ],
)
def test_a_source_that_is_wrong_is_one_line_and_code_2(source, tmp_path, capsys, caplog, spoil, message):
    caplog.set_level("WARNING", logger="data_prep")  # progress that another test's logging would print
    output = tmp_path / "out"
    assert main([str(spoil(source, tmp_path)), "--output", str(output), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not output.exists()
    assert not list(tmp_path.glob(".out*"))


def test_an_output_that_cannot_be_made_is_one_line_and_code_2(source, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(source), "--output", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be made" in capsys.readouterr().err
    assert main([str(source), "--output", str(source)]) == 2
    assert "allowed is a new or empty folder" in capsys.readouterr().err


def test_links_into_an_archive_are_refused(source, tmp_path):
    with pytest.raises(SpecError, match="got link for an archive; allowed is a folder"):
        convert(_archive(source, tmp_path / "a.tar"), tmp_path / "out", link=True)


@pytest.mark.real_data
def test_the_real_folder_is_kept_whole_and_gives_the_committed_splits(data_root, repository, tmp_path):
    conversion = convert(data_root / "hippocampus", tmp_path / "out", link=True)
    assert len(conversion.kept) == 200
    assert conversion.misfits == ()
    configs = repository / "bundles" / "hippocampus" / "configs"
    splits = tmp_path / "out" / "splits"
    assert (splits / "hippocampus_144_16_40.json").read_bytes() == (configs / "split_144_16_40.json").read_bytes()
    assert (splits / "folds.json").read_bytes() == (configs / "folds.json").read_bytes()


@pytest.mark.real_data
def test_the_real_misfits_are_named_and_nothing_else(data_root, tmp_path):
    real = data_root / "hippocampus"
    source = tmp_path / "source"
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir(parents=True)
        for path in sorted((real / folder).iterdir())[:5]:
            (source / folder / path.name).symlink_to(path)
    shutil.copy(real / "misfits" / "image_hippocampus_118.nii.gz", source / "imagesTr" / "hippocampus_118.nii.gz")
    for case in ("hippocampus_010", "hippocampus_281"):
        shutil.copy(real / "misfits" / f"label_{case}.nii.gz", source / "labelsTr" / f"{case}.nii.gz")
    assert {misfit.case: misfit.reason for misfit in convert(source, tmp_path / "a").misfits} == {
        "hippocampus_010": "labelsTr/hippocampus_010.nii.gz: a label without an image",
        "hippocampus_118": "imagesTr/hippocampus_118.nii.gz: an image without a label",
        "hippocampus_281": "labelsTr/hippocampus_281.nii.gz: a label without an image",
    }
    # Given an image, the last one is found out by its grid.
    shutil.copy(source / "imagesTr" / "hippocampus_118.nii.gz", source / "imagesTr" / "hippocampus_281.nii.gz")
    reasons = {misfit.case: misfit.reason for misfit in convert(source, tmp_path / "b").misfits}
    assert "got a grid of shape (512, 512, 94)" in reasons["hippocampus_281"]
    assert len(reasons) == 3
