"""One file with all numbers, which the tables alone decide."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from medsegdiff.compare.analysis.summary import (
    StudyTables,
    analyse,
    cost_table,
    failed_runs,
    read_tables,
    reliability_table,
    strict,
    summarise,
    uncertainty_table,
    write_summary,
)

KEYS = {"method": "recycling", "options": "", "sampler": "ddpm", "steps": 3, "draws": 1}


class TestSummary:
    def test_the_tables_decide_whatever_the_order_of_their_rows(self, tmp_path, study_cases, study_runs):
        study_cases = study_cases.drop(columns="hd95")
        study_cases.to_csv(tmp_path / "cases.csv", index=False)
        study_runs.to_csv(tmp_path / "runs.csv", index=False)
        path = write_summary(summarise(read_tables(tmp_path)), tmp_path)
        written = json.loads(path.read_text(), parse_constant=pytest.fail)
        shuffled = study_cases.sample(frac=1, random_state=0)
        again = strict(summarise(StudyTables(cases=shuffled, runs=study_runs)))
        assert again == written

    def test_every_analysis_is_in_it(self, study_cases, study_runs):
        tables = analyse(StudyTables(cases=study_cases, runs=study_runs))
        assert {name for name, table in tables.items() if table.empty} == {"folds", "uncertainty", "reliability"}
        summary = summarise(StudyTables(cases=study_cases, runs=study_runs), tables)
        assert set(summary["tables"]) == set(tables)
        assert summary["cases"]["n_cases"] == 30 and summary["cases"]["seeds"] == ["0", "1"]
        assert summary["failed"] == [
            {"method": "cdal", "options": "", "fold": "", "seed": "0", "reason": "the loss is not finite"}
        ]
        verdicts = {claim["name"]: claim["verdict"] for claim in summary["claims"]}
        assert verdicts["diffusion_declines"] == verdicts["diffusion_uses_x_t"] == "holds"
        assert verdicts["cdal_beats_segdiff"] == "not measured"

    def test_cases_alone_are_enough(self, study_cases):
        summary = summarise(StudyTables(cases=study_cases[study_cases["method"] == "supervised"]))
        assert summary["failed"] == [] and summary["tables"]["cost"] == []

    def test_nothing_measured(self, study_cases, study_runs, tmp_path):
        summary = summarise(StudyTables(cases=study_cases[:0], runs=study_runs[-1:]))
        assert len(summary["failed"]) == 1 and summary["cases"]["n_cases"] == 0
        json.loads(write_summary(summary, tmp_path).read_text(), parse_constant=pytest.fail)


class TestStrict:
    def test_what_json_cannot_say(self):
        value = {"a": np.nan, 1: [np.float64(1 / 3), np.int64(7)], "b": (np.inf, True, None, "x", 2.0)}
        assert strict(value) == {"a": None, "1": [0.333333, 7], "b": [None, True, None, "x", 2]}


class TestOthers:
    def test_uncertainty_of_a_case_is_averaged_over_runs_first(self):
        table = pd.DataFrame(
            [
                {**KEYS, "case": case, "ece": ece, "ause": 0.1, "ged": np.nan}
                for case, ece in (("a", 0.1), ("a", 0.3), ("b", 0.6))
            ]
        )
        found = uncertainty_table(table).set_index("measure")
        assert found.loc["ece", "mean"] == pytest.approx((0.2 + 0.6) / 2) and found.loc["ece", "n"] == 2
        assert set(found.index) == {"ece", "ause"}

    def test_bins_of_runs_add_up(self):
        bins = pd.DataFrame(
            [
                {**KEYS, "bin_low": 0.5, "bin_high": 1.0, "count": n, "confidence": c, "accuracy": a}
                for n, c, a in ((10, 0.8, 0.5), (30, 0.6, 0.9), (0, np.nan, np.nan))
            ]
        )
        (row,) = reliability_table(bins).to_dict("records")
        assert (row["count"], row["confidence"], row["accuracy"]) == (40, pytest.approx(0.65), pytest.approx(0.8))

    def test_cost_and_failures(self, study_runs):
        assert set(cost_table(study_runs)["train_minutes"]) == {2}
        assert "cdal" not in set(cost_table(study_runs)["method"])
        assert failed_runs(study_runs)["reason"].tolist() == ["the loss is not finite"]
        assert failed_runs(pd.DataFrame()).empty
