"""Reading tables, the unit of a case, pairs, and which way of sampling stands for a method."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from medsegdiff.compare.analysis.frames import (
    ENTRY,
    case_values,
    in_order,
    labelled,
    paired_values,
    parts_of,
    primary_entries,
    read_cases,
    read_table,
)
from medsegdiff.errors import DataError


class TestReading:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_names_stay_text_and_numbers_are_numbers(self, tmp_path, rows, suffix):
        written = rows("recycling", [0.5, np.nan], seed="007").assign(case=["NA", "1.0"])
        written.to_csv(tmp_path / f"cases.csv{suffix}", index=False)
        cases = read_cases(tmp_path / "cases.csv")
        assert sorted(cases["case"]) == ["1.0", "NA"]
        assert set(cases["seed"]) == {"007"} and set(cases["fold"]) == {""}
        assert cases.set_index("case")["dice"].isna().to_dict() == {"1.0": True, "NA": False}
        assert cases["t"].isna().all()

    def test_a_missing_or_empty_file_is_an_empty_table(self, tmp_path):
        (tmp_path / "empty.csv").touch()
        assert read_table(tmp_path / "empty.csv").empty and read_table(tmp_path / "none.csv").empty

    def test_without_cases_there_is_nothing_to_read(self, tmp_path):
        with pytest.raises(DataError, match=r"cases\.csv has no column method, options.*; give the folder"):
            read_cases(tmp_path / "cases.csv")

    def test_a_table_that_is_none(self, tmp_path):
        (tmp_path / "cases.csv").write_text('a,b\n"1,2\n3')
        with pytest.raises(DataError, match="is not a table"):
            read_cases(tmp_path / "cases.csv")
        (tmp_path / "runs.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n")[:-9])
        with pytest.raises(DataError, match=r"runs\.csv\.gz is not a table"):
            read_table(tmp_path / "runs.csv")


class TestCaseValues:
    def test_classes_are_averaged_within_a_case_and_the_undefined_left_out(self, rows, table):
        cases = table(rows("recycling", [[0.9, 0.5], [0.8, np.nan], [np.nan, np.nan]]))
        values = case_values(cases, ENTRY)
        assert values["dice"].tolist()[:2] == pytest.approx([0.7, 0.8]) and np.isnan(values["dice"][2])

    def test_a_training_counts_once_however_often_it_was_sampled(self, rows, table):
        cases = table(
            rows("recycling", [0.2], seed="0", sampling_seed="0"),
            rows("recycling", [0.4], seed="0", sampling_seed="1"),
            rows("recycling", [0.9], seed="1", sampling_seed="0"),
        )
        assert case_values(cases, ENTRY)["dice"].tolist() == pytest.approx([(0.3 + 0.9) / 2])

    def test_classes_can_be_kept_apart(self, rows, table):
        cases = table(*(rows("recycling", [[0.9, 0.5]], seed=seed) for seed in "01"))
        values = case_values(cases, ["class_name"])
        assert values[["class_name", "dice"]].values.tolist() == [["a", pytest.approx(0.9)], ["b", pytest.approx(0.5)]]


class TestPairs:
    def test_networks_of_one_fold_and_seed_are_compared(self, rows, table):
        one = table(rows("recycling", [0.5], seed="0"), rows("recycling", [0.9], seed="1"))
        other = table(rows("diffusion", [0.4], seed="0"), rows("diffusion", [0.1], seed="2"))
        values, reference = paired_values(one, other)
        assert (values["dice"].tolist(), reference["dice"].tolist()) == ([0.5], [0.4])

    def test_cases_of_one_side_alone_are_no_pairs(self, rows, table):
        one, other = table(rows("recycling", [0.5, 0.6])), table(rows("diffusion", [0.4, 0.5], first_case=1))
        values, reference = paired_values(one, other)
        assert (values["dice"].tolist(), reference["dice"].tolist()) == ([0.6], [0.4])

    def test_the_undefined_leave_on_both_sides(self, rows, table):
        one = table(rows("recycling", [0.5], seed="0"), rows("recycling", [np.nan], seed="1"))
        other = table(rows("diffusion", [0.4], seed="0"), rows("diffusion", [0.0], seed="1"))
        values, reference = paired_values(one, other)
        assert (values["dice"].tolist(), reference["dice"].tolist()) == ([0.5], [0.4])


class TestPrimary:
    def test_the_sampling_that_most_methods_share(self, rows, table):
        cases = table(
            *(rows(name, [0.5], steps=4, sampler="ddim") for name in ("diffusion", "recycling")),
            rows("recycling", [0.5], steps=5),
            rows("segdiff", [0.5], steps=25),
            rows("supervised", [0.5]),
        )
        found = primary_entries(cases).set_index("method")[["sampler", "steps"]]
        assert found.loc["recycling"].tolist() == found.loc["diffusion"].tolist() == ["ddim", 4]
        assert found.loc["segdiff"].tolist() == ["ddpm", 25] and found.loc["supervised"].tolist() == ["", 1]

    def test_ties_go_to_ddpm_then_five_steps_then_few_draws(self, rows, table):
        settings = [("ddim", 5, 1), ("ddpm", 10, 1), ("ddpm", 5, 8), ("ddpm", 5, 2)]
        cases = table(*(rows("recycling", [0.5], sampler=s, steps=n, draws=d) for s, n, d in settings))
        assert primary_entries(cases)[["sampler", "steps", "draws"]].values.tolist() == [["ddpm", 5, 2]]

    def test_variants_have_one_each(self, rows, table):
        cases = table(rows("recycling", [0.5]), rows("recycling", [0.5], options="no transformer"))
        assert len(primary_entries(cases)) == 2


class TestOrder:
    def test_as_in_the_papers_ensembles_last(self):
        names = ["supervised+cdal", "my_method", "cdal", "recycling", "supervised"]
        ordered = in_order(pd.DataFrame({"method": names, "options": ""}))
        assert ordered["method"].tolist() == ["supervised", "recycling", "cdal", "my_method", "supervised+cdal"]

    def test_labels(self, rows, table):
        cases = table(rows("recycling", [0.5]), rows("recycling", [0.6], options="wide"))
        assert labelled(cases, "recycling")["dice"].tolist() == [0.5]
        assert labelled(cases, "wide")["dice"].tolist() == [0.6]
        assert parts_of("supervised+wide") == ["supervised", "wide"]
        assert parts_of("recycling") == []
