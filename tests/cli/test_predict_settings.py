"""Ids of a bundle's configuration and weights of several folds, given on the command line."""

from __future__ import annotations

import json

import pytest


def _settings(folder):
    return json.loads((folder / "report.json").read_text())["settings"]


def test_a_setting_reaches_the_inferer_and_the_report(predict, save_image, tmp_path):
    image = save_image(tmp_path / "a.nii.gz")
    result = predict(image, "--set", "memory_budget=1000")
    assert result.exit_code == 2
    assert "sampling 40x56x40 by windows" in result.stderr and "where 1000 bytes may be used" in result.stderr
    assert predict(image, "--set", "memory_budget=4e9", "--set", "average=probabilities").exit_code == 0
    assert _settings(tmp_path / "out")["settings"] == {"memory_budget": 4e9, "average": "probabilities"}


def test_a_resumed_run_with_another_setting_does_all_again(predict, save_image, tmp_path):
    image = save_image(tmp_path / "a.nii.gz")
    predict(image)
    result = predict(image, "--resume", "--set", "overlap=0.5")
    assert result.stderr == "resume: 0 of 1 done already; to do: 1 with other settings\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("overlap", "--set got 'overlap'; give ID=VALUE, such as --set overlap=0.5"),
        ("=3", "--set got '=3'; give ID=VALUE"),
        ("magic=3", "inference.json has no id 'magic' to set to 3; leave it out, or use one of "),
        ("seed=3", "settings holds seed, which is an argument of its own; give it as that"),
        ("average=magic", "average 'magic' does not exist"),
        ("overlap=much", "the bundle cannot be used with overlap='much' ("),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(predict, save_image, tmp_path, setting, message):
    result = predict(save_image(tmp_path / "a.nii.gz"), "--set", setting)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_weights_of_several_folds_are_an_ensemble(predict, save_image, tmp_path, tiny_bundle):
    models = tiny_bundle / "models"
    result = predict(
        save_image(tmp_path / "a.nii.gz"), "--weights", models / "model.pt", "--weights", models / "supervised.pt"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert [member["method"] for member in _settings(tmp_path / "out")["members"]] == ["recycling", "supervised"]
