from __future__ import annotations

import importlib.util

from typer.testing import CliRunner

from medsegdiff.cli.main import app


def test_without_monai_label_one_line_tells_how_to_get_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "monailabel" else find(name))
    result = CliRunner().invoke(app, ["label", "--studies", str(tmp_path)])
    assert result.exit_code == 2
    assert "Research use only" in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: MONAI Label is not installed")
    assert "make label-env" in line
    assert not list(tmp_path.iterdir())
