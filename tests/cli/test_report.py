"""`medsegdiff report`: a report anew, a copy for a repository, a block in its README."""

from __future__ import annotations

import json

import pandas as pd
import pytest


@pytest.fixture
def folder(tmp_path):
    """Of a study of one method and four cases."""
    rows = [
        {
            "run": "a",
            "method": "supervised",
            "options": "",
            "fold": "",
            "seed": 0,
            "sampler": "",
            "steps": 1,
            "step": 1,
            "draws": 1,
            "sampling_seed": 0,
            "probe": "",
            "t": "",
            "status": "present",
            "label": 1,
            "class_name": "head",
            "case": str(case),
            "dice": 0.5 + 0.1 * case,
        }
        for case in range(4)
    ]
    (tmp_path / "study").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "study" / "cases.csv", index=False)
    (tmp_path / "study" / "study.yaml").write_text("name: tiny\nbundle: b\nbudget: {steps: 3}\nmethods: [supervised]\n")
    return tmp_path / "study"


def test_here(run, folder):
    (folder / "README.md").write_text("mine")
    result = run("report", folder)
    assert result.exit_code == 0 and "report.html" in result.output
    assert json.loads((folder / "summary.json").read_text())["tables"]["main"][0]["mean"] == 0.65
    assert (folder / "README.md").read_text() == "mine"


def test_for_a_repository(run, folder, tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results" / "tiny"
    readme.write_text("# us\n<!-- results of tiny -->\n<!-- end of results of tiny -->\n")
    result = run("report", folder, "--publish", results, "--readme", readme)
    assert result.exit_code == 0, result.output
    assert "| **supervised** | one pass | 0.650 [" in readme.read_text()
    assert not (folder / "summary.json").exists()

    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    for name in ("summary.json", "report.html", "README.md"):
        (results / name).write_text("changed")
    assert run("report", results).exit_code == 0
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_what_cannot_be_done_is_one_line(run, folder, tmp_path):
    (tmp_path / "README.md").write_text("# us\n")
    for arguments, said in (
        ([tmp_path], "cases.csv has no column"),
        ([folder, "--publish", folder], "holds something that is no published study"),
        ([folder, "--readme", tmp_path / "README.md"], "has no place for the study 'tiny'"),
    ):
        result = run("report", *arguments)
        assert result.exit_code == 2
        assert said in result.output and "Traceback" not in result.output
