from __future__ import annotations

import json

import pytest

from data_prep.conversion import About, Account, Conversion, Misfit, describe, existing_source, in_own_terms
from data_prep.settings import SplitSettings
from data_prep.splits import default_splits
from medsegdiff.data.splits import PARTS, proportional
from medsegdiff.errors import DataError

ABOUT = About(
    name="task",
    description="a task",
    reference="somebody",
    licence="free",
    modalities=("t1", "t2"),
    classes=("background", "organ"),
)
NAMES = [f"case_{index}" for index in range(8)]


def _describe(folder, cases, account):
    return describe(
        folder,
        ABOUT,
        {case: {"image": [f"./{case}_1.nii", f"./{case}_2.nii"], "label": f"./{case}.nii"} for case in cases},
        spatial_dims=3,
        parts={},
        split=default_splits,
        settings=SplitSettings(seed=2),
        account=account,
        source=folder / "source",
    )


def test_the_description_is_that_of_the_decathlon(tmp_path):
    conversion = _describe(tmp_path, reversed(NAMES), Account())
    assert json.loads((tmp_path / "dataset.json").read_text()) == {
        "name": "task",
        "description": "a task",
        "reference": "somebody",
        "licence": "free",
        "tensorImageSize": "3D",
        "modality": {"0": "t1", "1": "t2"},
        "labels": {"0": "background", "1": "organ"},
        "numTraining": 8,
        "numTest": 0,
        "training": [{"image": [f"./{case}_1.nii", f"./{case}_2.nii"], "label": f"./{case}.nii"} for case in NAMES],
        "test": [],
        "splits": {"default": "splits/task_5_1_2.json", "folds": "splits/folds.json"},
    }
    assert conversion.kept == tuple(NAMES)
    assert conversion.split == proportional(NAMES, seed=2)
    assert json.loads((tmp_path / "misfits.json").read_text()) == {"misfits": [], "remarks": [], "left_out": {}}


def test_what_was_not_kept_is_written_and_summed_up(tmp_path):
    account = Account(
        misfits=[Misfit("z", "is wrong"), Misfit("y", "is too")],
        remarks=[Misfit("case_0", "was changed")],
        left_out={"MR": 3, "without label": 1},
    )
    conversion = _describe(tmp_path, NAMES, account)
    assert json.loads((tmp_path / "misfits.json").read_text()) == {
        "misfits": [{"case": "y", "reason": "is too"}, {"case": "z", "reason": "is wrong"}],
        "remarks": [{"case": "case_0", "reason": "was changed"}],
        "left_out": {"MR": 3, "without label": 1},
    }
    assert conversion.summary() == (
        "kept 8 pairs (5 training, 1 validation, 2 test), 2 misfits, 1 remarks, left out 3 MR, left out 1 without "
        "label, see misfits.json"
    )


def test_a_conversion_without_a_split_has_a_summary():
    conversion = Conversion(("a",), (), {part: [] for part in PARTS})
    assert conversion.summary() == "kept 1 pairs (0 training, 0 validation, 0 test), 0 misfits, see misfits.json"


def test_without_a_case_the_first_misfit_is_said(tmp_path):
    account = Account(misfits=[Misfit("b", "is wrong"), Misfit("a", "is too")], left_out={"MR": 3})
    message = (
        "source: got no sound pair and 2 misfits, for instance a: is too, and left out 3 MR; allowed is the layout"
    )
    with pytest.raises(DataError, match=message):
        _describe(tmp_path, [], account)
    assert not list(tmp_path.iterdir())


def test_a_source_is_there_or_refused(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    assert existing_source("a") == tmp_path / "a"
    with pytest.raises(DataError, match="b: there is no such file or folder"):
        existing_source("b")


def test_paths_below_the_folders_lose_them(tmp_path):
    text = f"{tmp_path}/a/b.nii has not the grid of {tmp_path}/c/d.nii"
    assert in_own_terms(text, tmp_path / "a", tmp_path / "c") == "b.nii has not the grid of d.nii"
