"""`medsegdiff check`: what it prints, writes and answers with."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from medsegdiff.data.phantoms import PhantomSpec, write_phantoms


@pytest.fixture
def phantoms(tmp_path):
    spec = PhantomSpec(shape=(20, 18, 16), spacing=(1.0, 1.0, 2.0), num_classes=3, class_names=("head", "body"))
    return write_phantoms(spec, tmp_path / "phantoms", cases=6)


def _spoil(folder):
    path = folder / "labelsTr" / "phantom_001.nii.gz"
    label = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(label.dataobj) * 5, label.affine), path)


def test_a_sound_folder_is_described_and_accepted(run, phantoms):
    result = run("check", phantoms)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"{phantoms}: 6 cases, 3-D"
    for title in ("parts", "grids", "storage", "intensities", "classes"):
        assert title in lines
    assert any(line.split()[:3] == ["spacing", "mm", "z"] and line.split()[3:] == ["2", "2", "2"] for line in lines)
    assert any(line.split()[:3] == ["1", "head", "6"] for line in lines)
    assert lines[-1].startswith("0 errors, 0 warnings")


def test_errors_come_in_a_line_each_and_give_exit_code_2(run, phantoms, tmp_path):
    _spoil(phantoms)
    result = run("check", phantoms, "--json", tmp_path / "fingerprint.json")
    assert result.exit_code == 2
    [line] = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: phantom_001: labelsTr/phantom_001.nii.gz: got the label values 5, 10 in ")
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: {phantoms}: got 1 error, the first phantom_001: ")
    content = json.loads((tmp_path / "fingerprint.json").read_text())
    assert content["remarks"][0]["severity"] == "error"


def test_a_bundle_is_what_the_folder_is_checked_against(run, phantoms, repository):
    result = run("check", phantoms, "--bundle", repository / "bundles" / "cxr")
    assert result.exit_code == 2
    assert "allowed is a 2-D image with 1 channel" in result.stdout


def test_nothing_is_written_where_the_json_cannot_be(run, phantoms, tmp_path):
    (tmp_path / "file").touch()
    result = run("check", phantoms, "--json", tmp_path / "file" / "out.json")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--workers", "0"), ("--fold", "0", "--split-file", "absent.json")])
def test_wrong_usage_exits_with_2(run, phantoms, arguments):
    assert run("check", *([phantoms] if arguments else []), *arguments).exit_code == 2


def test_a_missing_folder_is_one_line(run, tmp_path):
    result = run("check", tmp_path / "absent")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
