from __future__ import annotations

import logging

import pytest

from data_prep.settings import Settings
from data_prep.splits import Splits, default_splits, published_split, seeded_folds, write_splits
from medsegdiff.data.splits import PARTS, kfold, proportional, read_folds, read_split, write_split

NAMES = [f"case_{index:02}" for index in range(20)]
UNKNOWN = dict.fromkeys(NAMES)


def _parts(**numbers):
    named = iter(NAMES)
    return {next(named): part for part, number in numbers.items() for _ in range(number)}


def test_three_published_parts_are_the_split():
    parts = _parts(training=10, validation=4, test=6)
    split = published_split(parts, seed=0)
    assert {case: part for part in PARTS for case in split[part]} == parts


def test_without_a_validation_part_a_seeded_tenth_of_the_training_part_is_taken():
    parts = _parts(training=14, test=6)
    split = published_split(parts, seed=0)
    assert split["test"] == NAMES[14:]
    assert len(split["validation"]) == 1
    assert sorted(split["training"] + split["validation"]) == NAMES[:14]
    assert len({tuple(published_split(parts, seed=seed)["validation"]) for seed in range(9)}) > 1


def test_a_case_without_a_part_is_for_training():
    parts = _parts(test=6) | dict.fromkeys(NAMES[6:])
    split = published_split(parts, seed=0)
    assert sorted(split["training"] + split["validation"]) == NAMES[6:]


@pytest.mark.parametrize("parts", [_parts(training=9, validation=3), _parts(test=9), _parts(training=1, test=5), {}])
def test_parts_that_cannot_be_trained_and_tested_on_are_no_split(parts):
    assert published_split(parts, seed=0) is None


def test_the_published_parts_come_before_the_table_and_that_before_the_seed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    table = tmp_path / "table.json"
    write_split(table, {"training": NAMES[:8], "validation": NAMES[8:9], "test": NAMES[9:12]})
    published = _parts(training=10, validation=4, test=6)
    assert default_splits(published, Settings(), table=table).split == published_split(published, seed=0)
    assert default_splits(UNKNOWN, Settings(), table=table).split == read_split(table)
    assert "8 cases belong to no part of the split of the tables" in caplog.text
    assert default_splits(UNKNOWN, Settings(seed=1), table=table).split == proportional(NAMES, seed=1)
    assert default_splits(dict.fromkeys(NAMES[1:]), Settings(), table=table).split == proportional(NAMES[1:], seed=0)
    assert default_splits(UNKNOWN, Settings(), table=tmp_path / "absent.json").split == proportional(NAMES, seed=0)


def test_folds_are_seeded_and_four_unless_said():
    assert seeded_folds(NAMES, Settings()) == kfold(NAMES, folds=4, seed=0)
    assert seeded_folds(NAMES, Settings(folds=5, seed=3)) == kfold(NAMES, folds=5, seed=3)
    assert default_splits(UNKNOWN, Settings(folds=3)).folds == kfold(NAMES, folds=3, seed=0)


def test_too_few_cases_have_no_split_and_no_folds(caplog):
    assert default_splits(dict.fromkeys(NAMES[:2]), Settings()) == Splits(None, None)
    assert "2 cases are too few for a split" in caplog.text
    assert "2 cases are too few for 4 folds" in caplog.text


def test_the_files_are_named_after_the_sizes_and_can_be_read(tmp_path):
    splits = default_splits(UNKNOWN, Settings(seed=2))
    entries = write_splits(tmp_path / "splits", "task", splits, seed=2)
    assert entries == {"default": "splits/task_14_2_4.json", "folds": "splits/folds.json"}
    assert read_split(tmp_path / entries["default"]) == splits.split
    assert read_folds(tmp_path / entries["folds"]) == splits.folds
    assert write_splits(tmp_path / "none", "task", Splits(None, None), seed=0) == {}
