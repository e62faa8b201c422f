"""Calibration, sparsification and energy distance by closed forms and by loops over the definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from medsegdiff.errors import DataError, SpecError
from medsegdiff.metrics.calibration import (
    expected_calibration_error,
    generalised_energy_distance,
    reliability_bins,
    sparsification_curve,
    sparsification_error,
)

SHAPES = [(20, 30), (6, 7, 8)]


def sure(labels: np.ndarray, confidence: float, classes: int = 2) -> np.ndarray:
    """Probabilities (K, *S) that give these labels this confidence and share the rest."""
    p = np.full((classes, *labels.shape), (1 - confidence) / (classes - 1))
    np.put_along_axis(p, labels[None], confidence, axis=0)
    return p


def random_case(shape, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), size=shape)
    return np.moveaxis(p, -1, 0), rng.integers(0, classes, shape)


class TestExpectedCalibrationError:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_always_right_misses_by_what_it_lacks_in_confidence(self, shape):
        truth = np.random.default_rng(0).integers(0, 3, shape)
        assert expected_calibration_error(sure(truth, 0.9, 3), truth) == pytest.approx(0.1)
        assert expected_calibration_error(sure(truth, 1.0, 3), truth) == 0

    def test_always_wrong_misses_by_its_confidence(self):
        truth = np.random.default_rng(0).integers(0, 2, (10, 10))
        assert expected_calibration_error(sure(1 - truth, 0.8), truth) == pytest.approx(0.8)

    def test_as_often_right_as_it_says_is_calibrated(self):
        truth = np.zeros((10, 10), dtype=int)
        truth[:2] = 1  # says 0 with .8 everywhere
        assert expected_calibration_error(sure(np.zeros_like(truth), 0.8), truth) == pytest.approx(0)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("bins", [1, 10, 15])
    def test_it_agrees_with_a_loop_over_bins(self, shape, bins):
        p, truth = random_case(shape)
        confidence, right = p.max(axis=0).ravel(), (p.argmax(axis=0) == truth).ravel()
        expected = 0.0
        for b in range(bins):
            inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
            if inside.any():
                expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        assert expected_calibration_error(p, truth, bins=bins) == pytest.approx(expected)

    def test_the_background_hides_what_the_foreground_shows(self):
        truth = np.zeros((10, 10), dtype=int)
        truth[0, :5] = 1
        p = sure(np.zeros_like(truth), 1.0)
        p[:, 0] = sure(np.ones(10, dtype=int), 1.0)  # ten voxels of foreground, five of them wrong
        assert expected_calibration_error(p, truth) == pytest.approx(0.05)
        assert expected_calibration_error(p, truth, foreground_only=True) == pytest.approx(0.5)

    def test_the_foreground_is_what_either_calls_so(self):
        truth = np.array([[0, 1, 0, 1]])
        assert reliability_bins(sure(np.array([[0, 0, 1, 1]]), 0.9), truth, foreground_only=True).count.sum() == 3

    def test_no_foreground_is_undefined(self):
        truth = np.zeros((4, 4), dtype=int)
        assert math.isnan(expected_calibration_error(sure(truth, 1.0), truth, foreground_only=True))

    def test_tensors_are_taken(self):
        p, truth = random_case((8, 8))
        assert expected_calibration_error(torch.tensor(p), torch.tensor(truth)) == expected_calibration_error(p, truth)

    def test_bad_input(self):
        p, truth = random_case((4, 4))
        with pytest.raises(DataError, match=r"shape \(3, 4, 4\) and truth of shape \(4, 5\)"):
            expected_calibration_error(p, np.zeros((4, 5), dtype=int))
        with pytest.raises(DataError, match="after the softmax"):
            expected_calibration_error(5 * p, truth)
        with pytest.raises(DataError, match="labels 0 to 7; allowed are 0 to 2"):
            expected_calibration_error(p, np.where(np.arange(16).reshape(4, 4) == 3, 7, 0))
        with pytest.raises(SpecError, match="bins is 0"):
            expected_calibration_error(p, truth, bins=0)


class TestReliabilityBins:
    def test_cases_add_up(self):
        one, other = random_case((9, 9)), random_case((9, 9), seed=1)
        both = np.concatenate([one[0], other[0]], axis=1), np.concatenate([one[1], other[1]])
        total, expected = reliability_bins(*one) + reliability_bins(*other), reliability_bins(*both)
        np.testing.assert_array_equal(total.count, expected.count)
        np.testing.assert_allclose(total.confidence, expected.confidence)
        np.testing.assert_allclose(total.accuracy, expected.accuracy)
        assert total.expected_calibration_error == pytest.approx(expected.expected_calibration_error)

    def test_limits_belong_to_the_bin_below_and_one_to_the_last(self):
        truth = np.zeros(2, dtype=int)
        p = np.array([[0.6, 1.0], [0.4, 0.0]])
        bins = reliability_bins(p, truth, bins=5)
        assert bins.count.tolist() == [0, 0, 1, 0, 1]
        assert math.isnan(bins.accuracy[0]) and bins.accuracy[2] == 1
        assert bins.edges.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])

    def test_other_bins_do_not_add(self):
        case = random_case((4, 4))
        with pytest.raises(SpecError, match="got 5 and 6 bins"):
            reliability_bins(*case, bins=5) + reliability_bins(*case, bins=6)


class TestSparsification:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_perfect_ranking_is_the_oracle(self, shape):
        rng = np.random.default_rng(0)
        wrong = rng.random(shape) < 0.2
        curve = sparsification_curve(wrong + 0.5 * rng.random(shape), wrong)
        assert curve.area == pytest.approx(0)
        np.testing.assert_allclose(curve.error, curve.oracle)
        assert curve.error[0] == pytest.approx(1)

    @pytest.mark.parametrize("share", [0.05, 0.3])
    def test_an_uncertainty_that_says_nothing_has_the_area_of_the_integral(self, share):
        # error 1 throughout; oracle (w − f) / ((1 − f) w) up to f = w, 0 after: integrated by hand.
        wrong = np.arange(20_000) < share * 20_000
        expected = 1 - (share + (1 - share) * math.log(1 - share)) / share
        assert sparsification_error(np.zeros(20_000), wrong) == pytest.approx(expected, abs=1e-3)

    def test_by_hand_with_a_tie(self):
        # Most certain last; the two in the middle are equal and one of them is wrong: half an error each.
        uncertainty, wrong = np.array([3.0, 2.0, 2.0, 1.0]), np.array([False, True, False, False])
        error = [1 / 4, 1 / 3, 0.5 / 2, 0]
        oracle = [1 / 4, 0, 0, 0]
        expected = np.mean(np.subtract(error, oracle)) / (1 / 4)
        assert sparsification_error(uncertainty, wrong) == pytest.approx(expected)
        assert sparsification_error(uncertainty[::-1], wrong[::-1]) == pytest.approx(expected)

    def test_a_reversed_ranking_is_worse_than_none(self):
        wrong = np.arange(100) < 10
        backwards = sparsification_error(-wrong.astype(float), wrong)
        assert backwards > sparsification_error(np.zeros(100), wrong) > 0

    def test_nothing_wrong_is_undefined(self):
        assert math.isnan(sparsification_error(np.zeros((3, 3)), np.zeros((3, 3), dtype=bool)))

    def test_bad_input(self):
        with pytest.raises(DataError, match="one grid"):
            sparsification_error(np.zeros((3, 3)), np.zeros((3, 4), dtype=bool))
        with pytest.raises(DataError, match="finite"):
            sparsification_error(np.full(3, np.nan), np.ones(3, dtype=bool))
        with pytest.raises(SpecError, match="points is 0"):
            sparsification_curve(np.zeros(3), np.ones(3), points=0)


class TestGeneralisedEnergyDistance:
    @staticmethod
    def by_loops(draws, truths, labels, distance):
        def d(a, b):
            values = []
            for label in labels:
                p, q = a == label, b == label
                if not (p | q).any():
                    values.append(0.0)
                elif distance == "iou":
                    values.append(1 - (p & q).sum() / (p | q).sum())
                else:
                    values.append(1 - 2 * (p & q).sum() / (p.sum() + q.sum()))
            return np.mean(values)

        def mean(one, other):
            return np.mean([d(a, b) for a, b in itertools.product(one, other)])

        return 2 * mean(draws, truths) - mean(draws, draws) - mean(truths, truths)

    @pytest.mark.parametrize("distance", ["iou", "dice"])
    @pytest.mark.parametrize("shape", [(5, 6), (3, 4, 5)])
    def test_it_agrees_with_loops(self, distance, shape):
        rng = np.random.default_rng(0)
        draws, truths = rng.integers(0, 3, (3, *shape)), rng.integers(0, 3, (2, *shape))
        draws[0][draws[0] == 2] = 0
        expected = self.by_loops(draws, truths, [1, 2], distance)
        assert generalised_energy_distance(draws, truths, distance=distance) == pytest.approx(expected)
        assert expected > 0.01

    def test_one_of_each_is_twice_their_distance(self):
        one, other = np.array([1, 1, 0, 0]), np.array([0, 1, 1, 0])
        assert generalised_energy_distance([one], [other]) == pytest.approx(2 * (1 - 1 / 3))
        assert generalised_energy_distance([one], [other], distance="dice") == pytest.approx(2 * (1 - 1 / 2))

    def test_equal_sets_have_none_and_disjoint_masks_the_most(self):
        maps = np.random.default_rng(0).integers(0, 2, (4, 6, 6))
        assert generalised_energy_distance(maps, maps[::-1]) == pytest.approx(0)
        assert generalised_energy_distance([np.array([1, 0])], [np.array([0, 1])]) == 2

    def test_two_empty_maps_agree(self):
        empty, some = np.zeros(3, dtype=int), np.array([1, 0, 0])
        # 2 · (0 + 1)/2 − 0 − (0 + 1 + 1 + 0)/4
        assert generalised_energy_distance([empty], [empty, some]) == pytest.approx(0.5)
        assert math.isnan(generalised_energy_distance([empty], [empty]))

    def test_bad_input(self):
        with pytest.raises(DataError, match="got 0 draws and 1 truths"):
            generalised_energy_distance([], [np.zeros(3)])
        with pytest.raises(DataError, match="one grid"):
            generalised_energy_distance([np.zeros(3)], [np.zeros(4)])
        with pytest.raises(SpecError, match="distance is 'hd'"):
            generalised_energy_distance([np.zeros(3)], [np.zeros(3)], distance="hd")
