"""Means, paired tests, corrections and agreement against closed forms and against scipy by another way."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
from scipy import stats

from medsegdiff.compare.analysis.statistics import agreement, bootstrap_interval, compare_paired, holm, mean_of
from medsegdiff.errors import DataError

RNG = np.random.default_rng(0)
A, B = RNG.normal(0.82, 0.05, 40), RNG.normal(0.8, 0.05, 40)


class TestMean:
    def test_by_hand(self):
        found = mean_of([0.2, 0.4, np.nan, 0.9])
        assert (found.n, found.undefined) == (3, 1)
        assert found.mean == pytest.approx(0.5)
        assert found.sd == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2))
        assert 0.2 <= found.ci_low < 0.5 < found.ci_high <= 0.9

    def test_the_interval_is_close_to_the_normal_one(self):
        found = mean_of(A)
        half = 1.96 * A.std(ddof=1) / math.sqrt(len(A))
        assert (found.ci_low, found.ci_high) == pytest.approx((A.mean() - half, A.mean() + half), abs=0.15 * half)

    def test_it_is_the_same_every_time(self):
        assert bootstrap_interval(A) == bootstrap_interval(A.copy())

    @pytest.mark.parametrize("values", [[], [np.nan], [0.5]])
    def test_one_case_or_none_has_no_interval(self, values):
        found = mean_of(values)
        assert all(math.isnan(value) for value in (found.sd, found.ci_low, found.ci_high))
        assert found.n + found.undefined == len(values)


class TestPaired:
    def test_tests_agree_with_scipy_by_another_way(self):
        found = compare_paired(A, B)
        d = A - B
        t = d.mean() / (d.std(ddof=1) / math.sqrt(40))
        assert found.difference == pytest.approx(A.mean() - B.mean())
        assert found.p_t == pytest.approx(2 * stats.t.sf(abs(t), 39)) == pytest.approx(stats.ttest_rel(A, B).pvalue)
        assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(A, B).pvalue)
        assert found.improved == np.mean(A > B) and found.worse == np.mean(A < B)
        assert found.ci_low < found.difference < found.ci_high

    def test_sides_change_signs(self):
        one, other = compare_paired(A, B), compare_paired(B, A)
        assert one.difference == pytest.approx(-other.difference)
        assert one.p_t == pytest.approx(other.p_t)
        assert (one.improved, one.worse) == (other.worse, other.improved)

    def test_equal_values_show_nothing(self):
        found = compare_paired(A, A)
        assert (found.difference, found.ci_low, found.ci_high) == (0, 0, 0)
        assert (found.p_t, found.p_wilcoxon, found.improved, found.worse) == (1, 1, 0, 0)

    def test_a_constant_shift_is_certain(self):
        found = compare_paired(A + 0.01, A)
        assert (found.ci_low, found.ci_high) == pytest.approx((0.01, 0.01))
        assert found.p_t < 1e-12 and found.p_wilcoxon < 1e-6 and found.improved == 1

    def test_distances_improve_downwards(self):
        found = compare_paired([1.0, 2.0, 3.0], [2.0, 3.0, 3.0], higher_is_better=False)
        assert found.difference == pytest.approx(-2 / 3)
        assert (found.improved, found.worse) == (pytest.approx(2 / 3), 0)

    def test_what_is_undefined_on_one_side_leaves_on_both(self):
        a, b = A.copy(), B.copy()
        a[0], b[1] = np.nan, np.nan
        found, expected = compare_paired(a, b), compare_paired(A[2:], B[2:])
        assert (found.n, found.undefined) == (38, 2)
        assert found.difference == expected.difference and found.p_t == expected.p_t

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_to_tell(self, n):
        found = compare_paired(A[:n], B[:n])
        assert found.n == n and math.isnan(found.p_t) and math.isnan(found.p_wilcoxon) and math.isnan(found.ci_low)

    def test_other_numbers_of_cases_are_refused(self):
        with pytest.raises(DataError, match=r"shape \(40,\) and \(39,\)"):
            compare_paired(A, B[:-1])


class TestHolm:
    def test_by_hand(self):
        # In order: 4 · .01, 3 · .02, max(2 · .03, .06), max(1 · .04, .06).
        assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
        assert holm([0.6, 0.7]) == [1, 1]

    def test_the_undefined_do_not_count(self):
        found = holm([0.01, math.nan, 0.04])
        assert found[0] == pytest.approx(0.02) and found[2] == pytest.approx(0.04) and math.isnan(found[1])
        assert holm([]) == []

    def test_nothing_stays_frozen(self):
        holm([0.5])
        assert gc.get_freeze_count() == 0


class TestAgreement:
    def test_by_hand(self):
        found = agreement([11.0, 19.0, 33.0], [10.0, 20.0, 30.0])  # differences 1, −1, 3
        assert found.bias == 1
        assert (found.lower, found.upper) == pytest.approx((1 - 1.959964 * 2, 1 + 1.959964 * 2))
        t = stats.t.ppf(0.975, 2)
        assert found.bias_high - found.bias == pytest.approx(t * 2 / math.sqrt(3))
        limit = t * 2 * math.sqrt(1 / 3 + 1.959964**2 / 4)
        assert (found.lower - found.lower_low, found.upper_high - found.upper) == pytest.approx((limit, limit))

    def test_limits_hold_nearly_all_normal_differences(self):
        measured = np.random.default_rng(1).normal(2, 3, 4000)
        found = agreement(measured, np.zeros(4000))
        assert np.mean((measured > found.lower) & (measured < found.upper)) == pytest.approx(0.95, abs=0.01)
        assert found.lower_low < 2 - 1.96 * 3 < found.lower_high

    def test_undefined_pairs_are_counted(self):
        found = agreement([1.0, np.nan], [1.0, 1.0])
        assert (found.n, found.undefined, found.bias) == (1, 1, 0)
        assert math.isnan(found.lower) and math.isnan(found.bias_low)
