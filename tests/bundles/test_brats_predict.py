"""Files of one modality each, given to the command."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medsegdiff.cli.main import app

MODALITIES = ("t1", "t1ce", "t2", "flair")


def save_case(folder: Path, name: str, *, modalities: tuple[str, ...] = MODALITIES, shape=(17, 16, 15)) -> list[Path]:
    """A file of noise for each modality."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{name}_{modality}.nii.gz" for modality in modalities]
    for seed, path in enumerate(paths):
        noise = np.random.default_rng(seed).random(shape).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    return paths


@pytest.fixture
def predict(make_tiny_bundle, tmp_path):
    bundle = make_tiny_bundle("brats", weights=True)

    def invoke(*arguments: object):
        options = ["--bundle", bundle, "--output", tmp_path / "out", "--device", "cpu", "--amp", "off"]
        return CliRunner().invoke(app, ["predict", *map(str, [*options, *arguments])])

    return invoke


def test_a_folder_holds_as_many_cases_as_there_are_names(predict, tmp_path):
    first, second = save_case(tmp_path / "in", "one"), save_case(tmp_path / "in", "two")
    result = predict(tmp_path / "in")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [case["input"] for case in report["cases"]] == [[file.name for file in files] for files in (first, second)]
    assert nibabel.load(tmp_path / "out" / "one.nii.gz").shape == (17, 16, 15)

    # The same by names, in any order and only one of the two; a changed modality is noticed.
    again = predict(*reversed(second), "--resume")
    assert (again.exit_code, again.stderr) == (0, "resume: 1 of 1 done already; to do: none\n")
    save_case(tmp_path / "in", "two", modalities=("t2",))
    assert "1 with another image" in predict(*second, "--resume").stderr


@pytest.mark.parametrize("given", ["two folders", "one folder", "files"])
def test_a_case_without_a_modality_is_named_and_the_rest_is_done(predict, tmp_path, given):
    whole = tmp_path / ("whole" if given == "two folders" else "torn")
    files = save_case(whole, "one") + save_case(tmp_path / "torn", "two", modalities=MODALITIES[:3])
    result = predict(*(files if given == "files" else dict.fromkeys([whole, tmp_path / "torn"])))
    assert result.exit_code == 2
    assert "torn/two: got two_t1.nii.gz, two_t1ce.nii.gz, two_t2.nii.gz, without flair" in result.stderr
    assert (tmp_path / "out" / "one.nii.gz").is_file()
    assert not (tmp_path / "out" / "two.nii.gz").exists()


def test_one_modality_alone_is_no_case(predict, tmp_path):
    result = predict(*save_case(tmp_path / "in", "one")[:1])
    assert result.exit_code == 2
    assert "without t1ce, t2, flair" in result.stderr


def test_a_file_of_all_modalities_is_done_beside_a_case_without_one(predict, tmp_path):
    torn = save_case(tmp_path, "torn", modalities=MODALITIES[:3])
    whole = tmp_path / "whole.nii.gz"
    noise = np.random.default_rng(0).random((17, 16, 15, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), whole)
    result = predict(whole, *torn)
    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "without flair" in line
    assert (tmp_path / "out" / "whole.nii.gz").is_file()


def test_modalities_on_two_grids_are_refused_by_both(predict, tmp_path):
    save_case(tmp_path / "in", "one")
    save_case(tmp_path / "in", "one", modalities=("flair",), shape=(17, 16, 14))
    result = predict(tmp_path / "in")
    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "17" in line and "15" in line and "14" in line and "one_flair.nii.gz" in line
