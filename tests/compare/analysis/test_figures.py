"""Figures show the numbers of their tables, in the colours of their methods."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from medsegdiff.compare.analysis import analyses, figures, quality_figures, sampling_analyses
from medsegdiff.compare.analysis.drawing import COLOURS, label_of, sampling_label, save_figure, typeset
from medsegdiff.compare.analysis.summary import reliability_table, uncertainty_table
from medsegdiff.figures import new_figure, styled

EMPTY = pd.DataFrame()


def lines(ax) -> dict[str, list[float]]:
    """The heights of the labelled curves of a panel."""
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines if not line.get_label().startswith("_")}


def panels(figure) -> list:
    return [ax for ax in figure.axes if ax.get_visible()]


class TestDrawing:
    def test_colours_differ_and_none_is_grey_twice(self):
        assert len({to_hex(colour) for colour in COLOURS.values()}) == len(COLOURS) == 8

    def test_labels(self):
        keys = {"method": "recycling", "options": "", "sampler": "ddpm", "steps": 5.0, "draws": 4.0}
        assert label_of(keys, sampling=True) == "recycling (DDPM, 5 steps, 4 draws)"
        assert label_of({"method": "cdal", "options": "no attention"}) == "cDAL: no attention"
        assert label_of({"method": "recycling", "options": "recycling without it"}) == "recycling without it"
        assert label_of({"method": "cdal+wide", "options": ""}) == "cDAL + wide"
        assert sampling_label({"sampler": ""}) == "one pass"
        assert typeset("x_(t+1), x_T and a $") == r"$x_{t+1}$, $x_{T}$ and a \$"

    def test_files_are_light_and_always_the_same(self, tmp_path):
        def draw(path):
            with styled():
                figure = new_figure(3, 2)
                figure.subplots().plot([0, 1], [1, 0])
            return save_figure(figure, path)

        one, other = draw(tmp_path / "a.png"), draw(tmp_path / "b.png")
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_size < 20_000 and Image.open(one).size == (390, 260)

    def test_the_style_ends_with_the_block(self):
        before = mpl.rcParams["axes.spines.top"], mpl.rcParams["font.size"]
        with styled():
            assert not mpl.rcParams["axes.spines.top"]
        assert (mpl.rcParams["axes.spines.top"], mpl.rcParams["font.size"]) == before


def apart(boxes) -> bool:
    """Whether boxes, from left to right, do not touch."""
    return all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def within(box, figure) -> bool:
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


class TestRoom:
    """Nothing lies over another thing, or over the edge, however long names and numbers are."""

    METHODS = ("supervised", "recycling", "recycling_next", "self_conditioning_next", "supervised+recycling")

    def test_ticks_of_small_differences(self, rows, table):
        changes = {"supervised": 0, "recycling": 0.01, "recycling_next": -0.02}
        cases = table(*(rows(method, [0.8, 0.8 + change]) for method, change in changes.items()))
        differences = analyses.differences(cases).assign(ci_low=-0.006, ci_high=0.0098)
        for shown in (differences, differences.assign(part="supervised")):
            figure = figures.forest_figure(shown)
            figure.canvas.draw()
            ticks = [tick.label1 for tick in figure.axes[0].xaxis.get_major_ticks() if tick.label1.get_text()]
            low, high = figure.axes[0].get_xlim()
            boxes = [label.get_window_extent() for label in ticks if low <= label.get_position()[0] <= high]
            assert len(boxes) > 2 and apart(boxes)

    def test_legends_of_many_long_names(self, rows, table):
        cases = table(*(rows(method, [0.8, 0.9], steps=5, step=5) for method in self.METHODS))
        keys = [{"method": method, "options": "", "sampler": "ddpm", "steps": 5, "draws": 1} for method in self.METHODS]
        keys[0] |= {"sampler": ""}
        bins = [
            {**one, "bin_low": low, "confidence": low, "accuracy": 0.5, "count": 9} for one in keys for low in (0, 1)
        ]
        figure = quality_figures.reliability_figure(pd.DataFrame(bins), cases)
        figure.canvas.draw()
        assert within(figure.legends[0].get_window_extent(), figure)

    def test_the_axis_beside_a_long_legend(self, rows, table):
        steps = [rows(m, [0.8 + step / 99, 0.9], steps=5, step=step) for m in self.METHODS[1:] for step in range(1, 6)]
        steps += [rows(m, [0.8, 0.9], steps=5, step=step) for m in ("diffusion", "segdiff", "cdal") for step in (1, 5)]
        figure = figures.early_stopping_figure(sampling_analyses.early_stopping(table(*steps)))
        figure.canvas.draw()
        assert len(figure.legends[0].get_texts()) == 7
        assert within(figure.axes[0].yaxis.label.get_window_extent(), figure)


class TestApart:
    """Lines of one method, which share its colour, can be told apart."""

    def test_samplings_and_variants_of_a_method(self, rows, table):
        cases = table(
            *(
                rows("diffusion", [0.8, 0.9], options=options, sampler=sampler, steps=steps, step=steps)
                for options in ("", "diffusion, T = 9", "diffusion, wide")
                for sampler in ("ddpm", "ddim")
                for steps in (2, 5)
            )
        )
        figure = figures.setting_figure(sampling_analyses.sampling_steps(cases), "steps", xlabel="steps")
        looks = [(line.get_linestyle(), to_hex(line.get_markerfacecolor())) for line in figure.axes[0].lines]
        assert len(set(looks)) == len(looks) == 6

    def test_the_energy_distance_of_methods_that_are_shown_by_one_draw(self, rows, table):
        parts = [rows("diffusion", [0.8, 0.9], draws=draws, steps=3, step=3) for draws in (1, 5, 3)]
        keys = {"method": "diffusion", "options": "", "sampler": "ddpm", "steps": 3}
        measured = [
            {**keys, "draws": draws, "case": case, "ece": draws / 10, "ause": 0.2, "ged": ged}
            for draws, ged in ((1, np.nan), (5, 0.6), (3, 0.4))
            for case in "ab"
        ]
        figure = quality_figures.uncertainty_figure(uncertainty_table(pd.DataFrame(measured)), table(*parts))
        assert [ax.lines[1].get_xdata()[0] for ax in panels(figure)] == pytest.approx([0.1, 0.2, 0.4])


class TestCurves:
    def test_they_show_the_table(self, study_cases):
        curves = sampling_analyses.step_curves(study_cases)
        figure = figures.step_curves_figure(curves)
        titles = [ax.get_title(loc="left") for ax in panels(figure)][:4]
        assert titles == ["DDPM", "DDIM", "others, DDPM", "others, DDIM"]
        shown = lines(figure.axes[0])
        own = curves[(curves["sampler"] == "ddpm") & (curves["metric"] == "dice") & (curves["draws"] == 1)]
        expected = own[(own["method"] == "diffusion") & (own["steps"] == 3)]["mean"].tolist()
        assert shown["diffusion"] == pytest.approx(expected) and set(shown) == {"diffusion", "recycling"}
        assert to_hex(figure.axes[0].lines[0].get_color()) == COLOURS["diffusion"]

    def test_the_same_scale_for_the_same_methods(self, study_cases):
        figure = figures.step_curves_figure(sampling_analyses.step_curves(study_cases))
        assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() != figure.axes[2].get_ylim()

    def test_settings_stops_and_seeds(self, study_cases, study_runs):
        steps = sampling_analyses.sampling_steps(study_cases)
        figure = figures.setting_figure(steps, "steps", xlabel="steps")
        assert list(figure.axes[0].lines[0].get_xdata()) == [2, 3]
        draws = figures.setting_figure(sampling_analyses.draws(study_cases), "draws", xlabel="draws")
        assert list(draws.axes[0].lines[0].get_xdata()) == [1, 4]
        lengths = sampling_analyses.schedule_lengths(study_cases, study_runs)
        figure = figures.setting_figure(lengths, "T", xlabel="T")
        assert list(figure.axes[0].lines[0].get_xdata()) == [3, 1001]
        early = figures.early_stopping_figure(sampling_analyses.early_stopping(study_cases))
        assert lines(early.axes[0])["diffusion, of 3 steps"] == pytest.approx([0.02, 0.01])
        seeds = figures.seed_spread_figure(sampling_analyses.seed_spread(study_cases).assign(steps=3))
        assert len(lines(seeds.axes[0])) == 1


class TestRows:
    def test_forest(self, study_cases):
        table = analyses.differences(study_cases)
        figure = figures.forest_figure(table)
        rows = table[table["metric"] == "dice"]
        points = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
        assert points == pytest.approx(rows["difference"].tolist())
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()][-1] == "supervised + recycling"
        parts = figures.forest_figure(analyses.ensembles(study_cases).query("class_name == ''"), against="parts")
        assert [label.get_text() for label in parts.axes[0].get_yticklabels()] == [
            "supervised + recycling − supervised",
            "supervised + recycling − recycling",
        ]

    def test_every_case_is_a_point(self, study_cases):
        figure = figures.cases_figure(study_cases)
        assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [30] * 6

    def test_truth_and_noise(self, study_cases):
        figure = figures.truth_left_figure(analyses.truth_left(study_cases))
        ends = figure.axes[0].lines[0].get_xdata()
        assert ends[1] - ends[0] == pytest.approx(0.1)

    @pytest.mark.parametrize(
        "function",
        [
            figures.step_curves_figure,
            figures.forest_figure,
            figures.early_stopping_figure,
            figures.seed_spread_figure,
            figures.truth_left_figure,
            lambda table: figures.setting_figure(table, "steps", xlabel=""),
        ],
    )
    def test_nothing_to_draw(self, function):
        assert function(EMPTY) is None


class TestQuality:
    def test_bland_altman(self, study_cases):
        figure = quality_figures.score_figure(study_cases)
        table = analyses.differences(study_cases)
        bias = table[(table["metric"] == "dice")]["difference"].tolist()
        assert [ax.lines[1].get_ydata()[0] for ax in panels(figure)] == pytest.approx(bias)
        volumes = quality_figures.volume_figure(study_cases)
        assert len(panels(volumes)) == 6
        assert panels(volumes)[0].lines[1].get_ydata()[0] == pytest.approx(0.145)  # 145 mm³ in thousands

    def test_reliability_and_uncertainty(self, study_cases):
        keys = {"method": "recycling", "options": "", "sampler": "ddpm", "steps": 3, "draws": 1}
        bins = pd.DataFrame(
            [
                {**keys, "bin_low": low, "bin_high": low + 0.25, "count": n, "confidence": low + 0.1, "accuracy": low}
                for low, n in ((0.5, 10), (0.75, 30), (0.25, 0))
            ]
        )
        figure = quality_figures.reliability_figure(reliability_table(bins), study_cases)
        assert lines(figure.axes[0])["recycling"] == [0.5, 0.75]
        assert figure.axes[1].lines[0].get_ydata().tolist() == [0.25, 0.75]
        table = pd.DataFrame([{**keys, "case": case, "ece": 0.1, "ause": 0.2} for case in "ab"])
        figure = quality_figures.uncertainty_figure(uncertainty_table(table), study_cases)
        assert [ax.lines[1].get_xdata()[0] for ax in panels(figure)] == pytest.approx([0.1, 0.2])

    def test_sparsification(self, study_cases):
        keys = {"method": "recycling", "options": "", "sampler": "ddpm", "steps": 3, "draws": 1}
        table = pd.DataFrame(
            [{**keys, "removed": r, "error": 1 - r / k, "oracle": 0.0} for k in (1, 2) for r in (0.0, 0.5)]
        )
        figure = quality_figures.sparsification_figure(table, study_cases)
        assert lines(figure.axes[0])["recycling"] == pytest.approx([1, (0.5 + 0.75) / 2])

    def test_nothing_to_draw(self, study_cases):
        nobody = study_cases[:0]
        assert quality_figures.volume_figure(nobody) is None and quality_figures.score_figure(nobody) is None
        assert figures.cases_figure(nobody) is None
        for function in (
            quality_figures.reliability_figure,
            quality_figures.uncertainty_figure,
            quality_figures.sparsification_figure,
        ):
            assert function(EMPTY, study_cases) is None

    def test_one_case(self, rows, table):
        cases = table(rows("supervised", [0.5]), rows("recycling", [0.6]))
        assert np.isfinite(panels(quality_figures.score_figure(cases))[0].lines[1].get_ydata()[0])
        assert figures.forest_figure(analyses.differences(cases)) is not None
