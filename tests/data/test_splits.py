from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from medsegdiff.data.splits import (
    PARTS,
    check_split,
    fold_split,
    kfold,
    proportional,
    read_folds,
    read_split,
    three_way,
    write_folds,
    write_json,
    write_split,
)
from medsegdiff.errors import DataError, SpecError


def _cases(count: int) -> list[str]:
    return [f"case_{index:03}" for index in range(count)]


def _all_names(groups) -> list[str]:
    return sorted(name for names in groups for name in names)


@pytest.mark.parametrize(("count", "folds"), [(260, 4), (10, 3), (4, 4), (201, 5)])
def test_folds_are_disjoint_complete_and_of_equal_size(count, folds):
    result = kfold(_cases(count), folds=folds)
    assert len(result) == folds
    assert _all_names(result) == _cases(count)
    assert max(map(len, result)) - min(map(len, result)) <= 1


def test_the_order_of_the_cases_does_not_matter_and_the_seed_does():
    mixed = random.Random(1).sample(_cases(40), 40)
    assert kfold(mixed, folds=4) == kfold(_cases(40), folds=4)
    assert proportional(mixed) == proportional(_cases(40))
    assert kfold(mixed, folds=4, seed=1) != kfold(mixed, folds=4, seed=0)
    assert proportional(mixed, seed=1) != proportional(mixed, seed=0)


def test_another_process_with_other_hash_seeds_gives_the_same_split():
    code = "import json; from medsegdiff.data.splits import kfold; print(json.dumps(kfold(map(str, range(20)))))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    assert json.loads(output) == kfold(map(str, range(20)))


def test_three_parts_have_the_sizes_asked_for():
    split = three_way(_cases(200), training=144, validation=16, test=40)
    assert {part: len(split[part]) for part in PARTS} == {"training": 144, "validation": 16, "test": 40}
    assert _all_names(split.values()) == _cases(200)


@pytest.mark.parametrize(
    ("count", "sizes"), [(200, (144, 16, 40)), (3, (1, 1, 1)), (10, (7, 1, 2)), (260, (187, 21, 52))]
)
def test_proportional_parts_are_72_to_8_to_20_and_never_empty(count, sizes):
    split = proportional(_cases(count))
    assert tuple(len(split[part]) for part in PARTS) == sizes
    assert _all_names(split.values()) == _cases(count)


@pytest.mark.parametrize("fold", [0, 3])
def test_a_fold_is_the_test_part_and_a_tenth_of_the_rest_validates(fold):
    folds = kfold(_cases(40), folds=4)
    split = fold_split(folds, fold=fold)
    assert split["test"] == folds[fold]
    assert [len(split[part]) for part in PARTS] == [27, 3, 10]
    assert _all_names(split.values()) == _cases(40)


def test_each_case_is_tested_in_one_fold():
    folds = kfold(_cases(13), folds=3)
    assert _all_names(fold_split(folds, fold=fold)["test"] for fold in range(3)) == _cases(13)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: kfold(_cases(5), folds=1), SpecError, "got folds=1; allowed are 2 or more"),
        (lambda: kfold(_cases(3), folds=4), DataError, "got 3 cases for 4 folds; allowed is at least one case a fold"),
        (lambda: kfold(["a", "b", "a"], folds=2), DataError, r"got 1 name \(a\) more than once"),
        (lambda: proportional(["a", "b"]), DataError, "got 2 cases; allowed are at least 3"),
        (
            lambda: three_way(_cases(10), training=5, validation=1, test=5),
            DataError,
            "got the sizes 5/1/5 for 10 cases; allowed are sizes of 0 or more that add up",
        ),
        (lambda: three_way(_cases(3), training=5, validation=-1, test=-1), DataError, "got the sizes 5/-1/-1"),
        (lambda: fold_split(kfold(_cases(8)), fold=4), SpecError, "got fold=4; allowed are 0 to 3"),
        (lambda: fold_split([["a"], ["b"]], fold=0), DataError, "got 1 cases outside fold 0; allowed are at least 2"),
    ],
)
def test_impossible_splits_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_is_written_is_read_again(tmp_path):
    split = proportional(_cases(20), seed=3)
    write_split(tmp_path / "new" / "split.json", split, name="twenty", seed=3)
    assert read_split(tmp_path / "new" / "split.json", cases=_cases(20)) == split
    content = json.loads((tmp_path / "new" / "split.json").read_text())
    assert list(content) == ["name", "seed", *PARTS]
    assert (content["name"], content["seed"]) == ("twenty", 3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["split.json"]


def test_folds_that_are_written_are_read_again(tmp_path):
    folds = kfold(_cases(9), folds=3)
    write_folds(tmp_path / "folds.json", folds)
    assert read_folds(tmp_path / "folds.json") == folds
    assert json.loads((tmp_path / "folds.json").read_text())["name"] == "folds"


def test_a_split_holds_no_folds(tmp_path):
    write_split(tmp_path / "split.json", proportional(_cases(9)))
    assert read_folds(tmp_path / "split.json") is None


def test_a_name_in_two_parts_is_refused(tmp_path):
    split = {"training": ["a", "b"], "validation": ["c"], "test": ["b"]}
    with pytest.raises(
        DataError, match=r"split\.json: got 1 name \(b\) more than once; allowed is each case in one part"
    ):
        write_split(tmp_path / "split.json", split)
    assert not list(tmp_path.iterdir())
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match=r"split\.json: got 1 name \(b\) more than once"):
        read_split(tmp_path / "split.json")


def test_a_case_in_two_folds_is_refused(tmp_path):
    (tmp_path / "folds.json").write_text(json.dumps({"folds": [["a", "b"], ["b"]]}))
    with pytest.raises(DataError, match=r"folds\.json: got 1 name \(b\) more than once"):
        read_folds(tmp_path / "folds.json")


def test_names_missing_from_the_data_are_refused():
    split = {"training": _cases(9), "validation": [], "test": []}
    with pytest.raises(DataError, match=r"got 7 names \(case_002, .*case_006 and 2 more\), missing from the data"):
        check_split(split, cases=_cases(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[1]", "got a JSON list; allowed is an object"),
        ('{"training": ["a"]}', "got no split; allowed is JSON with a list of case names for each of training, valid"),
        ('{"training": ["a"], "validation": "b", "test": []}', "got no split"),
        ('{"training": ["a"], "validation": [2], "test": []}', "got no split"),
    ],
)
def test_a_file_that_is_no_split_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "split.json")


def test_folds_that_are_no_lists_are_refused(tmp_path):
    (tmp_path / "folds.json").write_text('{"folds": ["a", "b"]}')
    with pytest.raises(DataError, match="got folds that are no lists of names"):
        read_folds(tmp_path / "folds.json")


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(DataError, match=r"split\.json cannot be written .*; allowed is a folder with write permission"):
        write_json(tmp_path / "file" / "split.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_keeps_the_former_file(tmp_path, monkeypatch):
    write_json(tmp_path / "split.json", {"former": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match="No space left on device"):
        write_json(tmp_path / "split.json", {"former": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]
    assert json.loads((tmp_path / "split.json").read_text()) == {"former": 1}


def test_the_split_of_the_hippocampus_tables_comes_out_of_the_code(repository):
    path = repository / "bundles" / "hippocampus" / "configs" / "split_144_16_40.json"
    split = read_split(path)
    names = _all_names(split.values())
    assert [len(split[part]) for part in PARTS] == [144, 16, 40]
    assert len(set(names)) == 200
    assert three_way(names, training=144, validation=16, test=40, seed=0) == split
    assert json.loads(path.read_text())["seed"] == 0


def test_the_hippocampus_folds_come_out_of_the_code(repository):
    configs = repository / "bundles" / "hippocampus" / "configs"
    folds = read_folds(configs / "folds.json")
    names = _all_names(folds)
    assert [len(fold) for fold in folds] == [50, 50, 50, 50]
    assert names == _all_names(read_split(configs / "split_144_16_40.json").values())
    assert kfold(names, folds=4, seed=0) == folds
