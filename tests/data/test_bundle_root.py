from __future__ import annotations

import json

import pytest

from medsegdiff.data.bundle_root import find_bundle_root
from medsegdiff.errors import DataError


def _bundle(folder, name="toy"):
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": name}))
    return folder


@pytest.mark.parametrize("file", ["train.json", "configs/train.json"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: ["--config_file", path],
        lambda path: [f"--config_file={path}"],
        lambda path: ["--config-file", f"['{path}', '/elsewhere/override.json']"],
        lambda path: ["--config_file", f"['/elsewhere/base.json', '{path}']"],
    ],
    ids=["two words", "one word", "first of a list", "last of a list"],
)
def test_the_folder_of_the_configuration_file_comes_first(tmp_path, monkeypatch, file, make):
    wanted = _bundle(tmp_path / "renamed")
    monkeypatch.chdir(_bundle(tmp_path / "here"))
    assert find_bundle_root("toy", arguments=["run", "training", *make(str(wanted / file))]) == str(wanted)


def test_a_relative_configuration_file_is_found_from_the_working_folder(tmp_path, monkeypatch):
    wanted = _bundle(tmp_path / "bundles" / "other")
    monkeypatch.chdir(tmp_path)
    found = find_bundle_root("toy", arguments=["--config_file", "bundles/other/configs/train.json"])
    assert found == str(wanted)


def test_else_the_working_folder_or_the_bundles_in_it(tmp_path, monkeypatch):
    wanted = _bundle(tmp_path / "bundles" / "toy")
    monkeypatch.chdir(tmp_path)
    assert find_bundle_root("toy", arguments=[]) == str(wanted)
    monkeypatch.chdir(wanted)
    assert find_bundle_root("toy", arguments=[]) == str(wanted)


def test_else_the_bundle_beside_the_package(tmp_path, monkeypatch, repository):
    monkeypatch.chdir(tmp_path)
    assert find_bundle_root("hippocampus", arguments=[]) == str(repository / "bundles" / "hippocampus")


def test_a_bundle_of_another_task_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(_bundle(tmp_path / "toy", name="brats"))
    with pytest.raises(DataError, match=r"no bundle of task 'toy' at any of .*; give --bundle_root the folder"):
        find_bundle_root("toy", arguments=["--config_file", str(tmp_path / "toy" / "train.json")])
