"""The tables of methods, by tables whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medsegdiff.compare.analysis import analyses, sampling_analyses
from medsegdiff.compare.analysis.frames import matches

FUNCTIONS = [
    analyses.main_table,
    analyses.class_table,
    lambda cases: analyses.spread_table(cases, "fold"),
    analyses.differences,
    analyses.variants,
    analyses.ensembles,
    analyses.volumes,
    analyses.truth_left,
    sampling_analyses.step_curves,
    sampling_analyses.last_minus_first,
    sampling_analyses.early_stopping,
    sampling_analyses.sampling_steps,
    sampling_analyses.draws,
    sampling_analyses.seed_spread,
]


def one(table, **keys):
    """The only row with these values."""
    found = matches(table, keys)
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_measured_is_an_empty_table(function, rows, table):
    assert function(table(rows("recycling", [0.5]))[:0]).empty


@pytest.mark.parametrize("function", FUNCTIONS[2:6] + FUNCTIONS[7:])
def test_what_a_study_does_not_hold_is_an_empty_table(function, rows, table):
    assert function(table(rows("recycling", [0.5, 0.6]))).empty


class TestMain:
    def test_classes_first_and_cases_then(self, rows, table):
        cases = table(rows("recycling", [[0.9, 0.5], [0.8, np.nan]]))
        row = one(analyses.main_table(cases), metric="dice")
        assert row["mean"] == pytest.approx((0.7 + 0.8) / 2) and row["n"] == 2 and row["primary"]

    def test_missed_and_spurious_structures_are_counted(self, rows, table):
        cases = table(rows("recycling", [0.5, 0.6]), rows("recycling", [0.0, 0.0], first_case=2, status="missed"))
        row = one(analyses.main_table(cases), metric="dice")
        assert (row["missed"], row["spurious"], row["n"]) == (2, 0, 4)

    def test_only_last_steps_are_results_and_probes_are_none(self, rows, table):
        cases = table(
            rows("recycling", [0.5], steps=2, step=2),
            rows("recycling", [0.1], steps=2, step=1),
            rows("recycling", [0.9], sampler="", probe="truth", t=250.0),
        )
        assert one(analyses.main_table(cases), metric="dice")["mean"] == 0.5

    def test_one_case_has_no_interval(self, rows, table):
        row = one(analyses.main_table(table(rows("recycling", [0.5]))), metric="dice")
        assert row["mean"] == 0.5 and np.isnan(row["ci_low"])

    def test_classes(self, rows, table):
        found = analyses.class_table(table(rows("recycling", [[0.9, 0.5], [0.7, 0.3]])))
        assert one(found, metric="dice", class_name="a")["mean"] == pytest.approx(0.8)
        assert one(found, metric="dice", class_name="b")["mean"] == pytest.approx(0.4)


class TestSpread:
    def test_folds_count_alike_however_many_cases_they_have(self, rows, table):
        cases = table(
            rows("recycling", [0.4, 0.6, 0.8], fold="0"),
            rows("recycling", [0.9], fold="1", first_case=3),
        )
        row = one(analyses.spread_table(cases, "fold"), metric="dice")
        assert (row["groups"], row["mean"]) == (2, pytest.approx(0.75))
        assert row["sd"] == pytest.approx(np.std([0.6, 0.9], ddof=1))
        assert (row["lowest"], row["highest"]) == (pytest.approx(0.6), pytest.approx(0.9))

    def test_seeds_of_training(self, rows, table, dice):
        cases = table(*(rows("recycling", dice + 0.01 * seed, seed=str(seed)) for seed in range(3)))
        row = one(analyses.spread_table(cases, "seed"), metric="dice")
        assert (row["groups"], row["sd"]) == (3, pytest.approx(0.01))


class TestDifferences:
    def test_against_the_supervised_network(self, rows, table, dice, noise):
        better = dice + 0.01 + noise(1)
        cases = table(rows("supervised", dice), rows("recycling", better), rows("diffusion", dice + noise(2)))
        found = analyses.differences(cases)
        row = one(found, metric="dice", method="recycling")
        assert row["difference"] == pytest.approx(0.01)
        assert row["p_t"] == pytest.approx(stats.ttest_rel(better, dice).pvalue)
        assert row["p_t_holm"] == pytest.approx(min(1, 2 * row["p_t"]))
        assert set(found["method"]) == {"recycling", "diffusion"}

    def test_a_shorter_distance_is_an_improvement(self, rows, table, dice):
        cases = table(rows("supervised", dice), rows("recycling", dice + 0.01))
        row = one(analyses.differences(cases), metric="hd95")
        assert row["difference"] == pytest.approx(-0.2) and row["improved"] == 1


class TestVariants:
    def test_against_the_plain_method_in_the_same_sampling(self, rows, table, dice):
        cases = table(
            *(rows("recycling", dice, sampler=sampler) for sampler in ("ddpm", "ddim")),
            rows("recycling", dice - 0.02, options="no transformer", sampler="ddim"),
            rows("recycling+no transformer", dice),
        )
        found = analyses.variants(cases)
        assert one(found, metric="dice")[["options", "sampler"]].tolist() == ["no transformer", "ddim"]
        assert one(found, metric="dice")["difference"] == pytest.approx(-0.02)

    def test_where_no_sampling_is_shared_each_has_its_own(self, rows, table, dice):
        cases = table(rows("recycling", dice, steps=5), rows("recycling", dice + 0.01, options="T=3", steps=3))
        row = one(analyses.variants(cases), metric="dice")
        assert (row["steps"], row["difference"]) == (3, pytest.approx(0.01))


class TestEnsembles:
    def test_against_each_part_and_class(self, rows, table, dice):
        both = np.stack([dice, dice - 0.1], axis=1)
        cases = table(
            rows("supervised", both),
            rows("recycling", both - [0.02, 0.04], steps=3),
            rows("supervised+recycling", both + 0.01, steps=3),
        )
        found = analyses.ensembles(cases)
        difference = {
            (row.part, row.class_name): row.difference for row in found[found["metric"] == "dice"].itertuples()
        }
        assert difference == {
            ("supervised", ""): pytest.approx(0.01),
            ("supervised", "a"): pytest.approx(0.01),
            ("supervised", "b"): pytest.approx(0.01),
            ("recycling", ""): pytest.approx(0.04),
            ("recycling", "a"): pytest.approx(0.03),
            ("recycling", "b"): pytest.approx(0.05),
        }

    def test_a_variant_may_be_a_part(self, rows, table, dice):
        cases = table(
            rows("supervised", dice),
            rows("recycling", dice, options="wide"),
            rows("supervised+wide", dice),
        )
        assert set(analyses.ensembles(cases)["part"]) == {"supervised", "wide"}


class TestVolumes:
    def test_bias_of_each_class(self, rows, table):
        found = analyses.volumes(table(rows("recycling", [[0.5, 0.5]] * 5)))  # 0, 10, …, 40 mm³ too much
        assert found["bias"].tolist() == [20, 20]
        assert found["upper"].tolist() == pytest.approx([20 + 1.959964 * np.std([0, 10, 20, 30, 40], ddof=1)] * 2)

    def test_absent_structures_say_nothing(self, rows, table):
        cases = table(rows("recycling", [0.5, 0.5]), rows("recycling", [np.nan], first_case=2, status="absent"))
        assert analyses.volumes(cases)["n"].tolist() == [2]


class TestTruthLeft:
    def test_truth_minus_noise(self, rows, table, dice):
        probes = {
            kind: rows("diffusion", dice + gain, sampler="", probe=kind, t=250.0)
            for kind, gain in {"truth": 0.05, "noise": -0.02}.items()
        }
        row = one(analyses.truth_left(table(*probes.values())), metric="dice")
        assert row["difference"] == pytest.approx(0.07)
        assert row["from_truth"] - row["from_noise"] == pytest.approx(0.07)
        assert (row["t"], row["method"]) == (250, "diffusion")
        assert np.isnan(row["in_x_t"])

    def test_what_x_t_says_stands_beside_it(self, rows, table, dice):
        probes = [rows("diffusion", dice, sampler="", probe=kind, t=250.0) for kind in ("truth", "noise")]
        probes.append(rows("diffusion", dice - 0.3, sampler="", probe="x_t", t=250.0))
        row = one(analyses.truth_left(table(*probes)), metric="dice")
        assert row["in_x_t"] == pytest.approx(dice.mean() - 0.3)
        assert row["difference"] == pytest.approx(0)


class TestSampling:
    def test_curves_and_what_the_steps_change(self, rows, table, dice):
        cases = table(*(rows("diffusion", dice - 0.01 * step, steps=3, step=step) for step in (1, 2, 3)))
        curve = sampling_analyses.step_curves(cases, ["dice"])
        assert curve["mean"].tolist() == pytest.approx([dice.mean() - 0.01 * step for step in (1, 2, 3)])
        row = one(sampling_analyses.last_minus_first(cases), metric="dice")
        assert (row["difference"], row["worse"]) == (pytest.approx(-0.02), 1)

    def test_stopping_early(self, rows, table, dice):
        cases = table(*(rows("diffusion", dice + 0.01 * step, steps=4, step=step) for step in (2, 4)))
        row = one(sampling_analyses.early_stopping(cases), metric="dice")
        assert (row["step"], row["share"], row["difference"]) == (2, 0.5, pytest.approx(-0.02))

    @pytest.mark.parametrize("setting", ["steps", "draws"])
    def test_settings_against_the_least(self, rows, table, dice, setting):
        cases = table(*(rows("recycling", dice + 0.01 * n, **{setting: n}) for n in (2, 5)), rows("supervised", dice))
        function = {"steps": sampling_analyses.sampling_steps, "draws": sampling_analyses.draws}[setting]
        found = function(cases, ["dice"])
        assert found[setting].tolist() == [2, 5] and set(found["against"]) == {2}
        assert np.isnan(found["difference"][0]) and found["difference"][1] == pytest.approx(0.03)
        assert found["mean"].tolist() == pytest.approx([dice.mean() + 0.02, dice.mean() + 0.05])

    def test_sampling_seeds_apart(self, rows, table):
        # In the first case the seeds are 0, .1 and .3: |differences| .1, .3, .2; in the second all are equal.
        cases = table(
            *(
                rows("recycling", [0.5 + shift, 0.6], sampling_seed=str(seed))
                for seed, shift in enumerate((0, 0.1, 0.3))
            )
        )
        row = one(sampling_analyses.seed_spread(cases), metric="dice")
        assert (row["seeds"], row["mean"], row["n"]) == (3, pytest.approx(0.1), 2)

    def test_seeds_of_training_are_not_seeds_of_sampling(self, rows, table, dice):
        cases = table(rows("recycling", dice, seed="0"), rows("recycling", dice + 0.1, seed="1"))
        assert sampling_analyses.seed_spread(cases).empty

    def test_schedules_of_other_lengths(self, study_cases, study_runs):
        found = sampling_analyses.schedule_lengths(study_cases, study_runs, ["dice"])
        assert found["T"].tolist() == [1001, 3] and set(found["against"]) == {1001}
        assert found["difference"].isna().tolist() == [True, False]
        assert set(found["seconds_per_case"]) == {0.5}
        unknown = study_runs.drop(columns="num_train_timesteps")
        assert sampling_analyses.schedule_lengths(study_cases, unknown).empty

    def test_variants_of_the_same_length_are_no_other_schedules(self, study_cases, study_runs):
        same = study_runs.assign(num_train_timesteps=1001.0)
        assert sampling_analyses.schedule_lengths(study_cases, same).empty

    def test_only_variants_that_differ_in_length_are_shown(self, rows, table, study_runs, dice):
        cases = table(*(rows("recycling", dice, options=name) for name in ("", "short", "no transformer")))
        runs = study_runs[:3].assign(
            run=cases["run"].astype(str).drop_duplicates().to_numpy(), method="recycling", sampler="ddpm"
        )
        lengths = {"recycling-short--0": 5.0}
        runs["num_train_timesteps"] = runs["run"].map(lengths).fillna(1001.0)
        found = sampling_analyses.schedule_lengths(cases, runs, ["dice"])
        assert dict(zip(found["options"], found["T"], strict=True)) == {"": 1001, "short": 5}
