"""The report: one file that needs nothing else and says what the summary says."""

from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pandas as pd
import pytest

from medsegdiff.compare.analysis import pictures
from medsegdiff.compare.analysis.report import write_report
from medsegdiff.compare.analysis.report_text import (
    beside,
    interval_picture,
    number,
    p_value,
    what_was_found,
    with_indices,
    with_interval,
)
from medsegdiff.errors import DataError

KEYS = {"method": "recycling", "options": "", "fold": "", "seed": "0", "sampler": "ddpm", "steps": 3, "draws": 1}


class Page(html.parser.HTMLParser):
    """What a reader and a browser see: text, headings, images, links, and whether every tag is closed."""

    VOID = ("meta", "img", "br", "line", "circle", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.images += [given["src"]] if "src" in given else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, study_cases, study_runs):
    """Of a study with all tables and the pictures of a volume, and its report."""
    tmp_path = tmp_path_factory.mktemp("study")
    study_cases.to_csv(tmp_path / "cases.csv", index=False)
    study_runs.to_csv(tmp_path / "runs.csv", index=False)
    uncertainty = [{**KEYS, "run": "r", "case": case, "ece": 0.1, "ause": 0.2, "ged": ""} for case in "ab"]
    pd.DataFrame(uncertainty).to_csv(tmp_path / "uncertainty.csv", index=False)
    bins = {**KEYS, "run": "r", "bin_low": 0.5, "bin_high": 1.0, "count": 9, "confidence": 0.8, "accuracy": 0.7}
    pd.DataFrame([bins]).to_csv(tmp_path / "calibration.csv", index=False)
    (tmp_path / "study.yaml").write_text("name: tiny <study>\nbundle: b\nbudget: {steps: 100}\nmethods: [recycling]\n")
    (tmp_path / "pictures").mkdir()
    truth = np.zeros((12, 12, 12), dtype=np.uint8)
    truth[4:8, 4:8, 4:8] = 1
    for name in ("recycling", "supervised"):
        np.savez_compressed(
            tmp_path / "pictures" / f"0000-case-{name}.npz",
            image=truth.astype(np.float32),
            truth=truth,
            prediction=np.roll(truth, 1, axis=0),
            entropy=np.zeros(truth.shape, np.float32),
            steps=np.stack([truth] * (1 if name == "supervised" else 3)),
            spacing=np.ones(3),
            **{
                key: np.array(value)
                for key, value in {"method": name, "options": "", "case": "c", "rank": "best"}.items()
            },
        )
    write_report(tmp_path)
    return tmp_path


@pytest.fixture
def page(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


class TestReport:
    def test_it_needs_nothing_but_itself(self, page):
        assert page.open == []
        assert page.images and all(source.startswith("data:image/png;base64,") for source in page.images)
        assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
        assert len(set(page.ids)) == len(page.ids)
        assert "nan" not in page.text.lower().split() and "undefined" not in page.text.replace(
            "undefined on one side", ""
        )

    def test_it_says_what_the_summary_says(self, folder, page):
        summary = json.loads((folder / "summary.json").read_text())
        assert all(claim["statement"].split(" x_")[0] in page.text for claim in summary["claims"])
        for verdict in ("holds", "not measured"):
            assert page.text.count(verdict) >= sum(claim["verdict"] == verdict for claim in summary["claims"])
        row = next(r for r in summary["tables"]["main"] if r["method"] == "supervised" and r["metric"] == "dice")
        assert f"{row['mean']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]" in page.text
        assert "cDAL, seed 0: the loss is not finite" in page.text
        assert "tiny <study>" in page.text and "a machine" in page.text and "For research only" in page.text

    def test_the_same_files_give_the_same_report(self, tmp_path, rows, dice):
        study = [rows("supervised", dice), *(rows("recycling", dice, steps=2, step=step) for step in (1, 2))]
        pd.concat(study).to_csv(tmp_path / "cases.csv", index=False)
        written = []
        for _ in range(2):
            write_report(tmp_path)
            written.append([(tmp_path / name).read_bytes() for name in ("report.html", "summary.json")])
        assert written[0] == written[1]

    def test_figures_are_files_too(self, folder, page):
        names = {path.stem for path in (folder / "figures").glob("*.png")}
        assert {"step_curves", "against_supervised", "truth_left", "reliability", "case_1_overview"} <= names
        assert {"case_1_methods", "case_1_steps", "case_1_surface"} <= names and len(names) == len(page.images)

    def test_methods_of_a_case_stand_in_the_order_of_reports(self, folder, monkeypatch):
        seen, draw = [], pictures.comparison_figure
        monkeypatch.setattr(
            pictures,
            "comparison_figure",
            lambda members: seen.append([one.method for one in members]) or draw(members),
        )
        write_report(folder)
        assert seen == [["supervised", "recycling"]]  # their files are in another

    def test_distances_have_their_unit_everywhere(self, page):
        assert page.text.count("HD95") == page.text.count("HD95, mm") > 1

    def test_one_case_and_nothing_else(self, tmp_path, rows):
        rows("recycling", [0.5]).to_csv(tmp_path / "cases.csv", index=False)
        page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
        assert "0.500" in page.text and "recycling is not in the study" not in page.text

    def test_all_runs_failed(self, tmp_path, rows, study_runs):
        rows("recycling", [0.5])[:0].to_csv(tmp_path / "cases.csv", index=False)
        study_runs[-1:].to_csv(tmp_path / "runs.csv", index=False)
        page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
        assert "Nothing was measured." in page.text and "the loss is not finite" in page.text

    def test_a_folder_without_a_study(self, tmp_path):
        with pytest.raises(DataError, match=r"cases\.csv has no column"):
            write_report(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestText:
    EVIDENCE = {
        "of": "recycling",
        "against": "its first step",
        "difference": -0.0123,
        "ci_low": -0.02,
        "ci_high": -0.005,
        "p_t_holm": 0.0004,
        "p_wilcoxon_holm": 0.0123,
        "improved": 0.25,
        "worse": 0.75,
        "n": 40,
        "undefined": 1,
        "sampler": "ddpm",
        "steps": 5,
        "draws": 1,
        "trainings": [{"difference": -0.01}, {"difference": -0.0146}],
        "other_samplings": [],
    }

    def test_numbers(self):
        assert (number(0.12345), number(-3.14159, "hd95"), number(None), number(np.nan)) == ("0.123", "−3.14", "–", "–")
        assert with_interval({"metric": "dice", "mean": 0.5, "ci_low": np.nan, "ci_high": np.nan}) == "0.500"
        assert [re.sub(r"\s", " ", p_value(p)) for p in (0.0004, 0.012, 1.0, np.nan)] == [
            "< .001",
            "= .012",
            "= 1.000",
            "not defined",
        ]

    def test_sentences(self):
        said = re.sub(r"\s", " ", what_was_found(self.EVIDENCE))
        assert said == (
            "recycling, last step − its first step: −0.012 Dice (95 % CI −0.020 to −0.005; t-test p < .001, "
            "Wilcoxon p = .012, Holm), better in 25 % and worse in 75 % of 40 cases, 1 more undefined."
        )
        assert beside(self.EVIDENCE) == "DDPM, 5 steps; 2 trainings: −0.010, −0.015."

    def test_the_small_picture(self):
        marks = interval_picture(self.EVIDENCE, width=100)
        assert (marks["zero"], marks["right"]) == (50, "+0.024")
        assert (
            marks["low"] == pytest.approx(50 * (1 - 1 / 1.2), abs=0.1)
            and marks["low"] < marks["middle"] < marks["high"]
        )
        assert interval_picture({**self.EVIDENCE, "ci_low": np.nan}) is None

    def test_indices_and_what_html_would_take_for_tags(self):
        assert str(with_indices("x_(t+1) & <b>")) == "x<sub>t+1</sub> &amp; &lt;b&gt;"
