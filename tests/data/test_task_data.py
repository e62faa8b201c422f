"""The data lists of a bundle: phantoms or real cases, checked before anything is trained."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medsegdiff.data.phantoms import PhantomSpec, write_phantoms
from medsegdiff.data.splits import kfold, write_folds, write_split
from medsegdiff.data.task_data import check_cases, evaluation_cases, split_name, task_datalists
from medsegdiff.errors import DataError, SpecError

TASK = PhantomSpec(name="tiny", shape=(16, 16, 16), spacing=(1, 1, 1), num_classes=3)
CASES = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of ten labelled cases; tests only read it."""
    return write_phantoms(TASK, tmp_path_factory.mktemp("data") / "folder", cases=CASES)


@pytest.fixture
def names(folder) -> list[str]:
    return sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir())


@pytest.fixture
def own_folder(tmp_path) -> Path:
    """A folder of three cases that a test may spoil."""
    return write_phantoms(TASK, tmp_path / "own", cases=3)


def spoil(folder: Path, *, label: bool, change) -> str:
    """Change the voxels of the first case, and give its name."""
    path = sorted((folder / ("labelsTr" if label else "imagesTr")).iterdir())[0]
    image = nibabel.load(path)
    array = change(np.asarray(image.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)
    return path.name.removesuffix(".nii.gz")


def cases_of(lists) -> dict[str, set[str]]:
    return {part: {item["case"] for item in items} for part, items in lists.items()}


def test_without_a_folder_there_are_phantoms_and_it_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with caplog.at_level("WARNING", logger="medsegdiff"):
        lists = task_datalists(None, phantoms=TASK, num_phantoms=8, split_file="not read")
    assert "no --dataset_dir given: using 8 generated phantoms" in caplog.text
    assert sum(len(items) for items in lists.values()) == 8
    assert all(lists.values())
    assert all(Path(item["image"]).is_relative_to(tmp_path) for item in lists["training"])
    assert task_datalists(None, phantoms=TASK, num_phantoms=8) == lists


def test_the_seed_makes_other_phantoms(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = (task_datalists(None, phantoms=TASK, num_phantoms=3, seed=seed) for seed in (0, 1))
    assert {item["image"] for item in first["training"]}.isdisjoint(item["image"] for item in second["training"])


def test_a_folder_is_split_by_the_file(folder, names, tmp_path):
    split = {"training": names[:5], "validation": names[5:7], "test": names[7:]}
    write_split(tmp_path / "split.json", split)
    lists = task_datalists(str(folder), phantoms=TASK, split_file=str(tmp_path / "split.json"))
    assert cases_of(lists) == {part: set(cases) for part, cases in split.items()}


@pytest.fixture
def folder_with_split(folder, names, tmp_path) -> Path:
    """The ten cases with a split of their own, 6/1/3, that their `dataset.json` names."""
    own = tmp_path / "with_split"
    shutil.copytree(folder, own)
    write_split(own / "splits.json", {"training": names[4:], "validation": names[3:4], "test": names[:3]})
    description = json.loads((own / "dataset.json").read_text())
    (own / "dataset.json").write_text(json.dumps(description | {"splits": "splits.json"}))
    return own


@pytest.fixture
def other_split(tmp_path) -> str:
    """A split of other data, as a bundle has it."""
    write_split(tmp_path / "other.json", {"training": ["x"], "validation": ["y"], "test": ["z"]})
    return str(tmp_path / "other.json")


def test_a_fold_is_the_test_part(folder):
    parts = [cases_of(task_datalists(str(folder), phantoms=TASK, fold=fold))["test"] for fold in range(4)]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == CASES


@pytest.mark.parametrize(
    ("label", "change", "reason"),
    [
        (True, lambda x: np.where(x > 1, 7, x).astype(np.uint8), "7"),
        (True, lambda x: x[1:], ""),
        (False, lambda x: np.where(x > x.mean(), np.nan, x).astype(np.float32), ""),
        (False, lambda x: np.stack([x, x], axis=-1), ""),
        (False, lambda x: np.zeros_like(x), ""),
    ],
    ids=["classes", "grids", "nan", "channels", "constant"],
)
def test_an_unfit_case_stops_before_training(own_folder, label, change, reason):
    name = spoil(own_folder, label=label, change=change)
    with pytest.raises(DataError) as caught:
        task_datalists(str(own_folder), phantoms=TASK)
    message = str(caught.value)
    assert name in message
    assert reason in message
    assert "\n" not in message


def test_several_unfit_cases_are_counted(own_folder):
    first, *others = sorted((own_folder / "labelsTr").iterdir())
    others[0].write_bytes(first.read_bytes()[:100])
    first.write_text("no image")
    cases = [
        {"image": str(own_folder / "imagesTr" / path.name), "label": str(path), "case": path.name}
        for path in (first, *others)
    ]
    with pytest.raises(DataError, match=r"\(2 of 3 cases are unfit, this is the first\)$"):
        check_cases(cases, TASK)


@pytest.mark.parametrize("function", [task_datalists, evaluation_cases])
@pytest.mark.parametrize(("place", "message"), [("missing", "no such folder"), (".", "got no pair of image and label")])
def test_a_folder_without_cases_is_refused(tmp_path, function, place, message):
    with pytest.raises(DataError, match=message):
        function(str(tmp_path / place), phantoms=TASK)


@pytest.mark.parametrize("empty", ["training", "validation"])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(folder, names, tmp_path, empty):
    split = {"training": names[:5], "validation": names[5:6], "test": names[6:]}
    split[empty] = ["not_here"]
    write_split(tmp_path / "split.json", split)
    with pytest.raises(DataError, match=rf"no case of the part {empty!r} by \S+split\.json; give --split_file one"):
        task_datalists(str(folder), phantoms=TASK, split_file=str(tmp_path / "split.json"))


def test_a_split_without_validation_is_named_where_it_is_not_the_file_given(folder_with_split, names, other_split):
    write_split(folder_with_split / "splits.json", {"training": names[3:], "validation": [], "test": names[:3]})
    with pytest.raises(DataError, match=r"no case of the part 'validation' by \S+splits\.json"):
        task_datalists(str(folder_with_split), phantoms=TASK, split_file=other_split)


class TestEvaluationCases:
    @pytest.fixture
    def split_file(self, names, tmp_path) -> str:
        write_split(tmp_path / "split.json", {"training": names[:6], "validation": [], "test": names[6:9]})
        return str(tmp_path / "split.json")

    @pytest.mark.parametrize(
        ("part", "expected"),
        [
            (None, slice(6, 9)),
            ("test", slice(6, 9)),
            ("training", slice(0, 6)),
            ("all", slice(0, 10)),
        ],
    )
    def test_a_known_folder_gives_a_part(self, folder, names, split_file, part, expected):
        cases = evaluation_cases(str(folder), part, phantoms=TASK, split_file=split_file)
        assert {item["case"] for item in cases} == set(names[expected])

    @pytest.mark.parametrize("named", [False, True], ids=["seeded", "dataset.json"])
    def test_a_folder_that_the_split_does_not_know_gives_what_was_not_trained_on(
        self, folder_with_split, other_split, named, caplog
    ):
        if not named:
            (folder_with_split / "splits.json").unlink()
            (folder_with_split / "dataset.json").unlink()
        options = {"phantoms": TASK, "split_file": other_split}
        lists = cases_of(task_datalists(str(folder_with_split), **options))
        caplog.clear()
        cases = {item["case"] for item in evaluation_cases(str(folder_with_split), **options)}
        assert cases == lists["test"]
        assert cases.isdisjoint(lists["training"] | lists["validation"])
        source = r"\S+splits\.json" if named else r"seed 0 \(as in training only if its --seed was the same\)"
        text = f"evaluating {len(cases)} of its 10 labelled cases, the test part by {source}; give --part all for"
        assert re.search(text, caplog.text)
        assert len(evaluation_cases(str(folder_with_split), "all", **options)) == CASES

    def test_a_folder_that_the_split_knows_needs_no_word(self, folder, split_file, caplog):
        evaluation_cases(str(folder), phantoms=TASK, split_file=split_file)
        assert "--part all" not in caplog.text

    def test_a_folder_too_small_for_a_split_is_evaluated_on_request(self, own_folder, other_split):
        first = sorted((own_folder / "labelsTr").iterdir())[0]
        first.unlink()
        (own_folder / "imagesTr" / first.name).unlink()
        options = {"phantoms": TASK, "split_file": other_split}
        with pytest.raises(DataError, match=r"got 2 cases; .* give --part all if the weights were not trained on it"):
            evaluation_cases(str(own_folder), **options)
        assert len(evaluation_cases(str(own_folder), "all", **options)) == 2

    def test_phantoms_give_their_test_part(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        options = {"phantoms": TASK, "num_phantoms": 8}
        assert evaluation_cases(None, **options) == task_datalists(None, **options)["test"]
        assert len(evaluation_cases(None, "all", **options)) == 8

    def test_a_part_without_cases_is_refused(self, folder, split_file):
        with pytest.raises(DataError, match="has no case in the part 'validation'; choose another --part"):
            evaluation_cases(str(folder), "validation", phantoms=TASK, split_file=split_file)

    def test_a_part_that_does_not_exist_is_refused(self, folder):
        with pytest.raises(SpecError, match="part 'train' does not exist; use one of training, validation, test, all"):
            evaluation_cases(str(folder), "train", phantoms=TASK)

    def test_cases_are_checked(self, own_folder, tmp_path):
        spoil(own_folder, label=True, change=lambda x: np.where(x > 1, 7, x).astype(np.uint8))
        with pytest.raises(DataError):
            evaluation_cases(str(own_folder), "all", phantoms=TASK)


class TestSplitName:
    @pytest.mark.parametrize(
        ("file", "fold", "name"),
        [
            ("split.json", None, "split"),
            ("folds.json", 2, "folds, fold 2"),
            (None, None, "seeded"),
            (None, 0, "seeded, fold 0"),
            ("other.json", None, "seeded"),
        ],
    )
    def test_a_run_names_its_split(self, folder, names, tmp_path, other_split, file, fold, name):
        write_split(tmp_path / "split.json", {"training": names[:6], "validation": names[6:7], "test": names[7:]})
        write_folds(tmp_path / "folds.json", kfold(names))
        assert split_name(str(folder), file and str(tmp_path / file), fold) == name

    def test_a_run_on_phantoms_says_so(self):
        assert split_name(None, "a/split.json", 2) == "phantoms"

    @pytest.mark.parametrize("given", [True, False])
    def test_a_run_names_the_split_of_its_data(self, folder_with_split, other_split, given):
        assert split_name(str(folder_with_split), other_split if given else None, None) == "splits"
