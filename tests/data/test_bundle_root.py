"""The folder of a bundle is found from wherever it is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import medsegdiff
from medsegdiff.data.bundle_root import find_bundle_root
from medsegdiff.errors import DataError

TASK = "spine"


@pytest.fixture
def make_bundle(tmp_path):
    def make(place: str, *, name: str = TASK) -> Path:
        folder = tmp_path / place
        (folder / "configs").mkdir(parents=True)
        for file in (folder / "train.json", folder / "configs" / "train.json"):
            file.write_text("{}")
        (folder / "configs" / "metadata.json").write_text(json.dumps({"name": name}))
        return folder

    return make


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working folder that is no bundle."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("file", ["train.json", "configs/train.json"])
@pytest.mark.parametrize("form", ["apart", "joined", "dashes", "list", "second"])
def test_it_is_the_folder_of_the_configuration(make_bundle, elsewhere, file, form):
    folder = make_bundle("here/copy")
    path = str(folder / file)
    arguments = {
        "apart": ["run", "training", "--config_file", path],
        "joined": [f"--config_file={path}"],
        "dashes": ["--config-file", path],
        "list": ["--config_file", str([path, str(folder / "configs" / "other.json")])],
        "second": ["--config_file", str([str(elsewhere / "my.json"), path])],
    }[form]
    assert find_bundle_root(TASK, arguments=arguments) == str(folder)


def test_a_relative_path_counts_from_the_working_folder(make_bundle, tmp_path, monkeypatch):
    folder = make_bundle("copies/one")
    monkeypatch.chdir(tmp_path)
    found = find_bundle_root(TASK, arguments=["--config_file", "copies/one/configs/train.json"])
    assert Path(found).resolve() == folder.resolve()


def test_the_working_folder_may_be_the_bundle(make_bundle, monkeypatch):
    folder = make_bundle("copy")
    monkeypatch.chdir(folder)
    assert find_bundle_root(TASK, arguments=[]) == str(folder)


def test_the_working_folder_may_hold_the_bundles(make_bundle, tmp_path, monkeypatch):
    folder = make_bundle(f"bundles/{TASK}")
    monkeypatch.chdir(tmp_path)
    assert find_bundle_root(TASK, arguments=[]) == str(folder)


def test_the_bundles_beside_the_package_are_the_last_resort(elsewhere):
    beside = Path(medsegdiff.__file__).resolve().parents[1] / "bundles" / "hippocampus"
    assert find_bundle_root("hippocampus", arguments=["--config_file", "no.json"]) == str(beside)


def test_the_bundle_of_another_task_is_passed_over(make_bundle, tmp_path, monkeypatch):
    other = make_bundle("other", name="liver")
    folder = make_bundle(f"bundles/{TASK}")
    monkeypatch.chdir(tmp_path)
    assert find_bundle_root(TASK, arguments=["--config_file", str(other / "train.json")]) == str(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"name": 3}', "{"])
def test_broken_metadata_are_passed_over(make_bundle, elsewhere, content):
    folder = make_bundle("copy")
    (folder / "configs" / "metadata.json").write_text(content)
    with pytest.raises(DataError, match=f"no bundle of task {TASK!r} at any of .*; give --bundle_root") as caught:
        find_bundle_root(TASK, arguments=["--config_file", str(folder / "train.json")])
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["--config_file"], ["--config_file", "[not a list"], ["--config_file="]])
def test_arguments_without_a_file_are_no_defect(elsewhere, arguments):
    with pytest.raises(DataError, match="no bundle of task"):
        find_bundle_root(TASK, arguments=arguments)


def test_the_command_line_of_the_process_is_read_by_default(make_bundle, elsewhere, monkeypatch):
    folder = make_bundle("copy")
    monkeypatch.setattr("sys.argv", ["monai.bundle", "run", "--config_file", str(folder / "train.json")])
    assert find_bundle_root(TASK) == str(folder)
