from __future__ import annotations

import json

import pytest
import torch

import medsegdiff
from medsegdiff.cli.run_report import peak_memory_mib, versions, write_report
from medsegdiff.errors import DataError


def test_versions_name_what_results_depend_on():
    found = versions()
    assert found["medsegdiff"] == medsegdiff.__version__
    assert found["torch"] == torch.__version__
    assert set(found) == {"medsegdiff", "monai", "torch", "python"}


def test_peak_memory_is_in_mib():
    assert 10 < peak_memory_mib()["process"] < 1024**2


def test_a_report_is_written_whole(tmp_path):
    path = write_report({"a": [1, "é"]}, tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, "é"]}
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_report({}, tmp_path)
