"""Summaries of measured cases: means, counts, intervals, the table and the files."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from medsegdiff.errors import DataError, SpecError
from medsegdiff.metrics.segmentation import METRICS, METRICS_2D, ClassMetrics, case_metrics
from medsegdiff.metrics.summary import format_table, summarise, summarised_metrics, write_metrics


def row(case: str, name: str, value: float, *, label: int = 1, status="present") -> ClassMetrics:
    """A row of a volume whose six metrics are all `value`."""
    return ClassMetrics(
        case=case,
        label=label,
        class_name=name,
        status=status,
        **dict.fromkeys(METRICS, value),
        prediction_voxels=1,
        truth_voxels=1,
        prediction_volume=1.0,
        truth_volume=1.0,
    )


@pytest.fixture
def rows() -> list[ClassMetrics]:
    """Three cases of two classes: class b is absent in the second case and missed in the third."""
    return [
        row("one", "a", 0.9),
        row("one", "b", 0.5, label=2),
        row("two", "a", 0.8),
        row("two", "b", math.nan, label=2, status="absent"),
        row("three", "a", 0.4),
        row("three", "b", 0.0, label=2, status="missed"),
    ]


@pytest.fixture
def planar_rows() -> list[ClassMetrics]:
    """Two pictures; the first lacks a region in the truth."""
    planar = {"boundary_f": 0.5, "weighted_coverage": math.nan, "area_ratio": 0.1}
    one = replace(row("one", "a", 0.2), **planar)
    return [one, replace(row("two", "a", 0.4), boundary_f=0.7, weighted_coverage=0.8, area_ratio=0.3)]


class TestSummarise:
    def test_each_class_over_its_defined_values(self, rows):
        summary = summarise(rows)
        a, b = summary["classes"]["a"], summary["classes"]["b"]
        assert a["dice"]["mean"] == pytest.approx(0.7)
        assert a["dice"]["median"] == pytest.approx(0.8)
        assert a["dice"]["std"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
        assert (a["dice"]["n"], b["dice"]["n"]) == (3, 2)
        assert b["dice"]["mean"] == pytest.approx(0.25)

    def test_cases_are_counted_by_status(self, rows):
        summary = summarise([*rows, row("four", "a", 0.0, status="spurious")])
        counts = ("n_cases", "n_missed", "n_spurious", "n_absent")
        assert [summary["classes"]["a"][key] for key in counts] == [4, 0, 1, 0]
        assert [summary["classes"]["b"][key] for key in counts] == [3, 1, 0, 1]
        assert [summary["mean"][key] for key in counts] == [4, 1, 1, 1]
        assert summary["n_cases"] == 4

    def test_classes_are_averaged_within_a_case_before_cases(self, rows):
        # Case means .7, .8 and .2; the mean of the five values would be .52.
        mean = summarise(rows)["mean"]["dice"]
        assert mean["mean"] == pytest.approx((0.7 + 0.8 + 0.2) / 3)
        assert mean["n"] == 3

    def test_a_case_with_nothing_defined_leaves_the_mean(self, rows):
        empty = [row("four", "a", math.nan, status="absent"), row("four", "b", math.nan, label=2, status="absent")]
        before, after = summarise(rows)["mean"]["dice"], summarise([*rows, *empty])["mean"]["dice"]
        assert after == before

    def test_a_class_that_is_never_defined_is_nan(self):
        entry = summarise([row("one", "a", math.nan, status="absent")])["classes"]["a"]["hd95"]
        assert entry["n"] == 0
        assert all(math.isnan(entry[key]) for key in ("mean", "std", "median", "ci_low", "ci_high"))

    def test_one_case_has_a_mean_but_no_spread(self):
        entry = summarise([row("one", "a", 0.5)])["classes"]["a"]["dice"]
        assert (entry["mean"], entry["median"], entry["n"]) == (0.5, 0.5, 1)
        assert math.isnan(entry["std"]) and math.isnan(entry["ci_low"])

    def test_classes_keep_the_order_of_their_labels(self, rows):
        assert list(summarise(rows[::-1])["classes"]) == ["a", "b"]

    def test_the_order_of_the_cases_does_not_move_means(self, rows):
        one, other = (summarise(r)["mean"]["dice"]["mean"] for r in (rows, rows[::-1]))
        assert one == pytest.approx(other)

    def test_metrics_of_pictures_are_summarised_where_they_were_measured(self, rows, planar_rows):
        entry = summarise(planar_rows)["classes"]["a"]
        assert [entry[metric]["mean"] for metric in METRICS_2D] == pytest.approx([0.6, 0.8, 0.2])
        assert [entry[metric]["n"] for metric in METRICS_2D] == [2, 1, 2]
        assert summarised_metrics(summarise(planar_rows)) == (*METRICS, *METRICS_2D)
        assert summarised_metrics(summarise(rows)) == METRICS
        mixed = summarise([*planar_rows, row("volume", "a", 0.9)])["classes"]["a"]
        assert (mixed["dice"]["n"], mixed["boundary_f"]["n"], mixed["boundary_f"]["mean"]) == (3, 2, 0.6)

    def test_no_rows(self):
        with pytest.raises(DataError, match="no measured case"):
            summarise([])

    def test_a_case_measured_twice(self, rows):
        with pytest.raises(DataError, match="'two' was measured more than once"):
            summarise([*rows, row("two", "b", 0.1, label=2)])

    @pytest.mark.parametrize("confidence", [0, 1, 95])
    def test_confidence(self, rows, confidence):
        with pytest.raises(SpecError, match=f"confidence is {confidence}"):
            summarise(rows, confidence=confidence)


class TestInterval:
    VALUES = np.random.default_rng(0).normal(0.8, 0.05, 100)

    def interval(self, **options) -> tuple[float, float]:
        rows = [row(f"case {i}", "a", float(value)) for i, value in enumerate(self.VALUES)]
        entry = summarise(rows, **options)["classes"]["a"]["dice"]
        return entry["ci_low"], entry["ci_high"]

    def test_it_is_close_to_the_normal_one_for_normal_values(self):
        half = 1.96 * self.VALUES.std(ddof=1) / math.sqrt(100)
        expected = (self.VALUES.mean() - half, self.VALUES.mean() + half)
        assert self.interval() == pytest.approx(expected, abs=0.1 * half)

    def test_the_seed_decides(self):
        assert self.interval() == self.interval()
        assert self.interval() != self.interval(seed=1)

    def test_more_confidence_is_wider(self):
        (low, high), (lower, higher) = self.interval(), self.interval(confidence=0.99)
        assert lower < low < high < higher

    def test_equal_values_have_an_interval_of_no_width(self):
        entry = summarise([row(case, "a", 0.25) for case in "abc"])["classes"]["a"]["dice"]
        assert (entry["ci_low"], entry["ci_high"]) == (0.25, 0.25)


class TestTable:
    def test_a_line_for_each_class_the_mean_and_its_interval(self, rows):
        lines = format_table(summarise(rows)).splitlines()
        assert lines[0].split() == ["class", "cases", "missed/spurious/absent", "Dice", "IoU", "HD95", "mm", "NSD"]
        assert [line.split()[0] for line in lines if "-" not in line][1:] == ["a", "b", "mean", "95"]
        assert lines[2].split()[:6] == ["a", "3", "0/0/0", "0.700", "±", "0.265"]
        assert lines[3].split()[:3] == ["b", "3", "1/0/1"]

    def test_other_metrics_can_be_shown(self, rows):
        lines = format_table(summarise(rows), metrics=["precision", "recall"]).splitlines()
        assert lines[0].split()[3:] == ["Precision", "Recall"]
        assert lines[2].split()[3:] == ["0.700", "±", "0.265"] * 2

    def test_pictures_show_the_outline_in_place_of_the_surface(self, planar_rows):
        lines = format_table(summarise(planar_rows)).splitlines()
        assert lines[0].split()[3:] == ["Dice", "IoU", "HD95", "Boundary", "F"]  # no mm
        assert lines[2].split()[-3:] == ["0.600", "±", "0.141"]

    def test_a_metric_that_was_not_measured(self, rows):
        with pytest.raises(SpecError, match="cannot show boundary_f; these cases were measured by dice, hd95"):
            format_table(summarise(rows), metrics=["dice", "boundary_f"])

    def test_undefined_values_read_as_such(self):
        text = format_table(summarise([row("one", "a", math.nan, status="absent")]))
        assert "n/a" in text and "nan" not in text

    def test_columns_line_up(self, rows):
        lines = format_table(summarise([*rows, row("one", "a rather long class", 1.0, label=3)])).splitlines()
        assert len({len(line) for line in lines}) == 1


class TestFiles:
    def test_a_row_for_each_case_and_class(self, rows, tmp_path):
        csv_path, _ = write_metrics(rows, summarise(rows), tmp_path / "new" / "folder", settings={"method": "m"})
        with csv_path.open(newline="") as file:
            table = list(csv.DictReader(file))
        assert [(r["case"], r["class_name"], r["dice"], r["status"], r["method"]) for r in table][1:4] == [
            ("one", "b", "0.5", "present", "m"),
            ("two", "a", "0.8", "present", "m"),
            ("two", "b", "nan", "absent", "m"),
        ]

    def test_the_summary_is_strict_json(self, tmp_path):
        rows = [row("one", "a", math.nan, status="absent")]
        _, path = write_metrics(rows, summarise(rows), tmp_path, settings={"steps": 5, "folder": tmp_path})
        summary = json.loads(path.read_text(), parse_constant=pytest.fail)
        assert summary["classes"]["a"]["dice"]["mean"] is None
        assert summary["classes"]["a"]["n_absent"] == 1
        assert summary["settings"] == {"steps": 5, "folder": str(tmp_path)}

    def test_it_takes_what_case_metrics_gives(self, tmp_path):
        truth = np.eye(4, dtype=int)
        rows = case_metrics(truth, truth, class_names=["a"], spacing=(1, 1), case="one")
        csv_path, _ = write_metrics(rows, summarise(rows), tmp_path)
        assert csv_path.read_text().splitlines()[1].startswith("one,1,a,present,1,0,1,1,1,1,1,1,1,4,4,4,4")

    def test_volumes_have_no_columns_of_pictures(self, rows, planar_rows, tmp_path):
        for name, measured in {"volumes": rows, "pictures": planar_rows}.items():
            csv_path, json_path = write_metrics(measured, summarise(measured), tmp_path / name)
            columns = csv_path.read_text().splitlines()[0].split(",")
            summary = json.loads(json_path.read_text())
            planar = list(METRICS_2D) if name == "pictures" else []
            assert [column for column in columns if column in METRICS_2D] == planar
            assert [metric for metric in METRICS_2D if metric in summary["classes"]["a"]] == planar

    def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(self, rows, tmp_path, monkeypatch):
        old = write_metrics(rows, summarise(rows), tmp_path)[0].read_text()

        def fail(*_):
            msg = "no space left"
            raise OSError(msg)

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match="no space left"):
            write_metrics(rows[:2], summarise(rows[:2]), tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "summary.json"]
        assert (tmp_path / "metrics.csv").read_text() == old

    def test_a_folder_that_cannot_be_made(self, rows, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=r"file.* cannot be written .*; choose a folder"):
            write_metrics(rows, summarise(rows), tmp_path / "file")

    def test_a_setting_named_like_a_column(self, rows, tmp_path):
        with pytest.raises(SpecError, match="settings holds case, dice"):
            write_metrics(rows, summarise(rows), tmp_path, settings={"dice": 1, "case": 2, "steps": 5})
        assert not list(tmp_path.iterdir())
