"""Runs of predict that go on where an earlier one ended."""

from __future__ import annotations

import json


def _report(folder):
    return json.loads((folder / "report.json").read_text())


def _times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}


def test_a_resumed_run_does_what_is_left_and_reports_on_all(predict, save_image, tmp_path):
    for name in ("a", "c"):
        save_image(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_text("hello")
    assert predict(tmp_path / "in", "--resume").exit_code == 2
    first, times = _report(tmp_path / "out"), _times(tmp_path / "out")
    save_image(tmp_path / "in" / "b.nii.gz")
    result = predict(tmp_path / "in", "--resume")
    assert (result.exit_code, result.stderr) == (0, "resume: 2 of 3 done already; to do: 1 failed before\n")
    assert {name: time for name, time in _times(tmp_path / "out").items() if name in times} == times
    report = _report(tmp_path / "out")
    assert (report["done"], report["failed"], report["resumed"]) == (3, 0, 2)
    assert [case.get("resumed", False) for case in report["cases"]] == [True, False, True]
    for before, after in zip(first["cases"], report["cases"], strict=True):
        assert before["status"] == "failed" or {**before, "resumed": True} == after


def test_a_resumed_run_with_other_settings_does_all_again_and_says_so(predict, save_image, tmp_path):
    save_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", "--probabilities")
    before = (tmp_path / "out" / "a_probabilities.nii.gz").read_bytes()
    result = predict(tmp_path / "in", "--probabilities", "--resume", "--seed", 1)
    assert result.stderr == "resume: 0 of 1 done already; to do: 1 with other settings\n"
    assert (tmp_path / "out" / "a_probabilities.nii.gz").read_bytes() != before


def test_the_same_settings_said_otherwise_are_the_same(predict, save_image, tmp_path):
    save_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in")
    result = predict(tmp_path / "in", "--resume", "--steps", 2, "--seed", 0)
    assert result.stderr == "resume: 1 of 1 done already; to do: none\n"
