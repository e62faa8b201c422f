"""Claims and their verdicts, by tables in which they hold, fail or stay open."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medsegdiff.compare.analysis.claims import (
    DECLINE_MARGIN,
    FAILS,
    HOLDS,
    NOT_MEASURED,
    PAR_MARGIN,
    UNDECIDED,
    verdict,
)
from medsegdiff.compare.analysis.evidence import judge

NO_RUNS = pd.DataFrame()


def claim(cases, name, runs=NO_RUNS):
    return next(one for one in judge(cases, runs) if one["name"] == name)


class TestVerdicts:
    @pytest.mark.parametrize(
        ("rule", "low", "high", "p", "expected"),
        [
            ("better", 0.01, 0.02, 0.001, HOLDS),
            ("better", 0.01, 0.02, 0.051, UNDECIDED),
            ("better", -0.01, 0.02, 0.001, UNDECIDED),
            ("better", -0.02, -0.01, 0.001, FAILS),
            ("declines", -0.02, -0.01, 0.001, HOLDS),
            ("declines", 0.01, 0.02, 0.001, FAILS),
            ("declines", -0.01, 0.01, 0.5, UNDECIDED),
            ("keeps", -0.004, 0.01, 0.5, HOLDS),
            ("keeps", -0.004, -0.001, 0.01, FAILS),
            ("keeps", -DECLINE_MARGIN, 0.01, 0.5, UNDECIDED),
            ("on par", -0.004, 0.009, 0.3, HOLDS),
            ("on par", 0.001, 0.009, 0.001, HOLDS),
            ("on par", 0.001, 0.02, 0.001, FAILS),
            ("on par", -0.001, PAR_MARGIN, 0.5, UNDECIDED),
            ("better", np.nan, np.nan, np.nan, UNDECIDED),
            ("keeps", np.nan, np.nan, np.nan, UNDECIDED),
            ("on par", np.nan, np.nan, np.nan, UNDECIDED),
        ],
    )
    def test_rules(self, rule, low, high, p, expected):
        assert verdict(rule, [{"ci_low": low, "ci_high": high, "p_t_holm": p}]) == expected

    def test_two_comparisons(self):
        def found(low, high):
            return {"ci_low": low, "ci_high": high, "p_t_holm": 0.001}

        good, open_, bad = found(0.01, 0.02), found(-0.01, 0.01), found(-0.02, -0.01)
        assert verdict("better", [good, good]) == HOLDS
        assert verdict("better", [good, open_]) == UNDECIDED
        assert verdict("better", [good, bad]) == verdict("better", [open_, bad]) == FAILS


class TestJudge:
    def test_a_shift_holds_and_equal_methods_are_undecided(self, rows, table, dice, noise):
        cases = table(
            rows("recycling", dice),
            rows("diffusion", dice - 0.02 + noise(1)),
            rows("self_conditioning", dice),
            rows("recycling_next", dice + 0.02 + noise(2)),
        )
        assert claim(cases, "recycling_beats_diffusion")["verdict"] == HOLDS
        assert claim(cases, "recycling_beats_self_conditioning")["verdict"] == UNDECIDED
        assert claim(cases, "recycling_beats_recycling_next")["verdict"] == FAILS
        (evidence,) = claim(cases, "recycling_beats_diffusion")["comparisons"]
        assert evidence["difference"] == pytest.approx(0.02)
        assert evidence["p_t_holm"] == pytest.approx(2 * evidence["p_t"])

    def test_more_draws_decide_nothing(self, rows, table, dice, noise):
        cases = table(rows("cdal", dice + 0.05 + noise(1), draws=5), rows("segdiff", dice))
        found = claim(cases, "cdal_beats_segdiff")
        assert found["verdict"] == UNDECIDED
        assert found["reason"] == "cdal is the mean of 5 draws and segdiff of 1, so this decides nothing"
        assert found["comparisons"][0]["against_sampling"]["draws"] == 1
        both = table(rows("cdal", dice + 0.05 + noise(1), draws=5), rows("segdiff", dice, draws=5))
        assert claim(both, "cdal_beats_segdiff")["verdict"] == HOLDS

    def test_a_single_pass_has_no_draws_to_be_unequal(self, rows, table, dice, noise):
        cases = table(rows("recycling", dice + noise(1), draws=5), rows("supervised", dice, sampler=""))
        assert claim(cases, "recycling_on_par")["verdict"] == HOLDS

    def test_over_the_steps(self, rows, table, dice, noise):
        cases = table(
            *(
                rows(method, dice + slope * step + noise(step), steps=2, step=step)
                for method, slope in {"diffusion": -0.02, "recycling": 0.001}.items()
                for step in (1, 2)
            )
        )
        assert claim(cases, "diffusion_declines")["verdict"] == HOLDS
        assert claim(cases, "recycling_keeps")["verdict"] == HOLDS
        swapped = cases.assign(method=cases["method"].map({"diffusion": "recycling", "recycling": "diffusion"}))
        assert claim(swapped, "recycling_keeps")["verdict"] == FAILS
        assert claim(swapped, "diffusion_declines")["verdict"] == UNDECIDED

    @pytest.mark.parametrize(
        ("shift", "spread", "expected"),
        [(0.002, 1, HOLDS), (-0.03, 1, FAILS), (0.009, 2, FAILS), (0.004, 8, UNDECIDED)],
    )
    def test_on_par(self, rows, table, dice, noise, shift, spread, expected):
        cases = table(rows("supervised", dice), rows("recycling", dice + shift + spread * noise(3)))
        judged = claim(cases, "recycling_on_par")
        assert judged["comparisons"][0]["difference"] == pytest.approx(shift)
        assert judged["verdict"] == expected

    def test_an_ensemble_must_beat_all_of_its_parts(self, rows, table, dice, noise):
        def study(gain):
            return table(
                rows("supervised", dice),
                rows("recycling", dice - 0.02, steps=3),
                rows("supervised+recycling", dice + gain + noise(1), steps=3),
            )

        name = "ensemble_beats_parts:supervised+recycling"
        assert claim(study(0.01), name)["verdict"] == HOLDS
        assert claim(study(0.0), name)["verdict"] == UNDECIDED
        assert claim(study(-0.01), name)["verdict"] == FAILS
        assert [c["against"] for c in claim(study(0.01), name)["comparisons"]] == ["supervised", "recycling"]

    def test_x_t_at_the_time_that_is_nearest_to_250(self, rows, table, dice, noise):
        def probe(kind, t, gain):
            return rows("diffusion", dice + gain + noise(int(t)), sampler="", probe=kind, t=t)

        cases = table(
            rows("diffusion", dice, steps=3),
            *(probe("truth", t, 1e-4 * t) for t in (100.0, 300.0)),
            *(probe("noise", t, 0) for t in (100.0, 300.0)),
        )
        judged = claim(cases, "diffusion_uses_x_t")
        assert judged["verdict"] == HOLDS
        assert judged["comparisons"][0]["difference"] == pytest.approx(0.03)
        assert [other["t"] for other in judged["comparisons"][0]["other_samplings"]] == [100]

    def test_trainings_and_other_ways_of_sampling_stand_beside(self, rows, table, dice):
        cases = table(
            *(
                rows(method, dice + shift * (1 + int(seed)), seed=seed, sampler=sampler)
                for method, shift in {"recycling": 0.02, "diffusion": 0.01}.items()
                for seed in "01"
                for sampler in ("ddpm", "ddim")
            )
        )
        (evidence,) = claim(cases, "recycling_beats_diffusion")["comparisons"]
        assert evidence["sampler"] == "ddpm"
        assert [t["difference"] for t in evidence["trainings"]] == pytest.approx([0.01, 0.02])
        (other,) = evidence["other_samplings"]
        assert (other["sampler"], other["difference"]) == ("ddim", pytest.approx(0.015))

    def test_own_ways_of_sampling_are_compared_where_none_is_shared(self, rows, table, dice):
        cases = table(rows("cdal", dice, steps=2), rows("segdiff", dice - 0.01, steps=25))
        judged = claim(cases, "cdal_beats_segdiff")
        assert judged["verdict"] == HOLDS and judged["comparisons"][0]["n"] == 30


class TestMissing:
    def test_it_says_what_is_missing_and_why(self, rows, table, study_runs):
        cases = table(rows("segdiff", [0.5, 0.6]))
        judged = claim(cases, "cdal_beats_segdiff", study_runs)
        assert judged["verdict"] == NOT_MEASURED and judged["comparisons"] == []
        assert judged["reason"] == "cdal failed: the loss is not finite"
        assert claim(cases, "recycling_on_par")["reason"] == (
            "recycling is not in the study; supervised is not in the study"
        )

    def test_steps_probes_and_cases(self, rows, table):
        cases = table(rows("diffusion", [0.5]), rows("recycling", [0.5], first_case=1))
        assert claim(cases, "diffusion_declines")["reason"] == "the first step was not measured"
        assert claim(cases, "diffusion_uses_x_t")["reason"] == "x_t from truth and noise was not measured"
        assert "share no case" in claim(cases, "recycling_beats_diffusion")["reason"]

    def test_one_case_decides_nothing(self, rows, table):
        cases = table(rows("diffusion", [0.5]), rows("recycling", [0.9]))
        assert claim(cases, "recycling_beats_diffusion")["verdict"] == UNDECIDED

    def test_nothing_measured(self, rows, table):
        assert {one["verdict"] for one in judge(table(rows("recycling", [0.5]))[:0], NO_RUNS)} == {NOT_MEASURED}
