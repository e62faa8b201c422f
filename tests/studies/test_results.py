"""What is committed of studies comes from their tables: every number, sentence and table, here and in the README."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medsegdiff.compare.analysis.markdown import block_in, results_block
from medsegdiff.compare.analysis.report import read_settings, write_report

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = sorted(path.parent for path in (REPOSITORY / "studies" / "results").glob("*/summary.json"))
MOST_BYTES = 3_000_000

if not RESULTS:
    pytest.skip("no study is published in studies/results", allow_module_level=True)


@pytest.fixture(scope="module", params=RESULTS, ids=lambda folder: folder.name)
def committed(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def again(committed, tmp_path_factory) -> Path:
    """The folder with everything made again from its tables, `study.yaml` and pictures of cases."""
    folder = tmp_path_factory.mktemp("again") / committed.name
    keep = shutil.ignore_patterns("summary.json", "report.html", "README.md", "figures")
    shutil.copytree(committed, folder, ignore=keep)
    write_report(folder, published=True)
    return folder


def near(found: Any, expected: Any, where: str = "summary") -> None:
    """Equal but for the last of six digits, which another version of a library may round the other way."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key, value in expected.items():
            near(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            near(found[number], value, f"{where}[{number}]")
    elif isinstance(expected, float | int) and not isinstance(expected, bool):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-9), where
    else:
        assert found == expected, where


class Words(html.parser.HTMLParser):
    """The words of a report, without the versions of the libraries that made it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed(re.sub(r"<dt>report made with</dt><dd>.*?</dd>", "", path.read_text(encoding="utf-8")))

    def handle_data(self, data):
        self.words += data.split()


def test_the_summary_is_that_of_the_tables(committed, again):
    found, expected = (
        json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in (again, committed)
    )
    assert expected["tables"]["main"] and expected["claims"]
    near(found, expected)


def test_the_report_and_the_page_say_what_the_tables_say(committed, again):
    assert Words(again / "report.html").words == Words(committed / "report.html").words
    assert (again / "README.md").read_text(encoding="utf-8") == (committed / "README.md").read_text(encoding="utf-8")


def test_its_figures_show_what_the_tables_say(committed, again):
    found, expected = ({path.name for path in (one / "figures").iterdir()} for one in (again, committed))
    assert found == expected
    for name in expected:
        pixels = [np.asarray(Image.open(one / "figures" / name).convert("RGB"), float) for one in (again, committed)]
        assert pixels[0].shape == pixels[1].shape, name
        assert np.abs(pixels[0] - pixels[1]).mean() < 1, name  # of 255
    page = (committed / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(figures/([^)]+)\)", page)) == expected


def test_the_readme_shows_its_results(committed):
    settings = read_settings(committed / "study.yaml")
    shown = block_in((REPOSITORY / "README.md").read_text(encoding="utf-8"), settings["name"])
    assert shown == results_block(json.loads((committed / "summary.json").read_text(encoding="utf-8")), settings)


def test_the_study_is_one_of_those_that_can_be_run(committed):
    study = REPOSITORY / "studies" / f"{committed.name}.yaml"
    assert (committed / "study.yaml").read_bytes() == study.read_bytes()


def test_it_is_light_and_names_no_place_of_the_machine_it_was_made_on(committed):
    files = [path for path in committed.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for path in files:
        if path.suffix in (".md", ".html", ".json", ".csv", ".yaml"):
            assert not re.findall(r"/(?:home|root|tmp|work|Users)/\w+", path.read_text(encoding="utf-8")), path
