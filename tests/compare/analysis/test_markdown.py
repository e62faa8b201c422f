"""A study as Markdown: what stands in it is what the summary says, and only its place in a file changes."""

from __future__ import annotations

import pytest

from medsegdiff.compare.analysis.markdown import block_in, put_block, results_block, study_page
from medsegdiff.compare.analysis.report_sections import Picture, Section
from medsegdiff.compare.analysis.summary import StudyTables, strict, summarise
from medsegdiff.errors import DataError, SpecError

SETTINGS = {"name": "tiny", "bundle": "hippocampus", "size": "small", "budget": {"steps": 100}, "credit": "Images: us."}


@pytest.fixture(scope="module")
def summary(study_cases, study_runs):
    return strict(summarise(StudyTables(cases=study_cases, runs=study_runs)))


def cells(block, *starts):
    """The cells of the table's line that begins with these."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if "|" in line]
    [found] = [line for line in lines if line[: len(starts)] == list(starts)]
    return found


class TestResults:
    def test_every_method_and_sampling_has_a_line_with_the_numbers_of_the_summary(self, summary):
        block = results_block(summary, SETTINGS)
        rows = {(r["method"], r["sampler"]): r for r in summary["tables"]["main"] if r["metric"] == "dice"}
        row = rows["segdiff", "ddim"]
        _, _, dice, *_ = cells(block, "SegDiff", "DDIM, 3 steps")
        assert dice == f"{row['mean']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        keys = ("method", "options", "sampler", "steps", "draws")
        table = block.split("\n\n")[1].splitlines()
        assert len(table) - 2 == len({tuple(row[key] for key in keys) for row in summary["tables"]["main"]})

    def test_the_difference_to_supervised_is_that_of_the_sampling_that_stands_for_a_method(self, summary):
        block = results_block(summary, SETTINGS)
        [against] = [
            row
            for row in summary["tables"]["against_supervised"]
            if row["method"] == "segdiff" and row["metric"] == "dice"
        ]
        assert cells(block, "**SegDiff**", "DDPM, 3 steps")[4].startswith(
            f"{against['difference']:+.3f}".replace("-", "−")
        )
        assert cells(block, "SegDiff", "DDIM, 3 steps")[4] == "–"
        assert cells(block, "**supervised**", "one pass")[4:7] == ["–", "–", "–"]

    def test_verdicts_failures_and_what_it_took(self, summary):
        block = results_block(summary, SETTINGS)
        assert cells(block, "Standard diffusion gets worse over its sampling steps")[2] == "**holds**"
        assert cells(block, "cDAL beats SegDiff")[2:] == ["not measured", "cdal failed: the loss is not finite"]
        assert block.startswith("5 methods and 1 ensemble on the bundle hippocampus, size small, ")
        assert "each method trained for 100 optimiser steps, measured on 30 cases" in block
        assert f"took {summary['made']['train_minutes']:.0f} minutes in all, on a machine." in block
        assert "Failed: cDAL: the loss is not finite." in block

    def test_the_page_has_every_step_the_pictures_and_the_credit(self, summary, tmp_path):
        picture = Picture(tmp_path / "figures" / "curves.png", "What x_0 & x_(t+1) don't say")
        page = study_page(summary, SETTINGS, [Section("a", "Curves", "Of <all>.", [picture]), Section("b", "None", "")])
        curve = [
            row
            for row in summary["tables"]["step_curves"]
            if (row["method"], row["sampler"], row["step"], row["metric"]) == ("diffusion", "ddim", 2, "dice")
        ]
        line = [text for text in page.split("## Every step")[1].splitlines() if text.startswith("| diffusion | DDIM")]
        assert f"{curve[0]['mean']:.3f} [" in line[0].split("|")[4]
        assert "(figures/curves.png)" in page and "## None" not in page
        assert "x<sub>0</sub> &amp; x<sub>t+1</sub> don't" in page and "Of &lt;all&gt;." in page
        assert page.endswith("Images: us.\n") and str(tmp_path) not in page


class TestPlace:
    TEXT = "# a\n<!-- results of tiny -->\nold\n<!-- end of results of tiny -->\nb\n"

    def test_only_what_is_between_the_marks_changes(self, tmp_path):
        path = tmp_path / "README.md"
        path.write_text(self.TEXT)
        put_block(path, "tiny", r"new \1")
        put_block(path, "tiny", r"new \1")
        text = path.read_text()
        assert text.startswith("# a\n<!--") and text.endswith("-->\nb\n") and "old" not in text
        assert block_in(text, "tiny") == r"new \1" and block_in(text, "other") is None

    def test_a_file_without_the_place(self, tmp_path):
        path = tmp_path / "README.md"
        path.write_text(self.TEXT)
        with pytest.raises(SpecError, match="no place for the study 'other'; put the lines <!-- results of other -->"):
            put_block(path, "other", "new")
        assert path.read_text() == self.TEXT
        with pytest.raises(DataError, match="cannot be read"):
            put_block(tmp_path / "none.md", "tiny", "new")
