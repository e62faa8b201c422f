"""Weighted coverage and what SegDiff's release has in its place: hand-computed regions and a second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from medsegdiff.errors import DataError
from medsegdiff.metrics.coverage import area_ratio, regions, weighted_coverage


def boxes(*corners: tuple[int, int, int, int], shape=(12, 20)) -> np.ndarray:
    """Instances 1, 2, … as boxes of (x0, x1, y0, y1)."""
    result = np.zeros(shape, dtype=int)
    for number, (x0, x1, y0, y1) in enumerate(corners, start=1):
        result[x0:x1, y0:y1] = number
    return result


def by_loops(prediction: np.ndarray, truth: np.ndarray) -> float:
    total = covered = 0.0
    for j in set(truth.ravel().tolist()) - {0}:
        ious = [0.0]
        for i in set(prediction.ravel().tolist()) - {0}:
            union = ((truth == j) | (prediction == i)).sum()
            ious.append(((truth == j) & (prediction == i)).sum() / union)
        total += (truth == j).sum()
        covered += (truth == j).sum() * max(ious)
    return covered / total


class TestWeightedCoverage:
    def test_by_hand(self):
        # 16 pixels found exactly, 4 pixels with an IoU of 2/6 at best, 20 missed: (16 + 4/3) / 40.
        truth = boxes((0, 4, 0, 4), (6, 8, 0, 2), (0, 4, 10, 15))
        prediction = boxes((0, 4, 0, 4), (7, 9, 0, 2), (6, 7, 1, 2))
        assert weighted_coverage(prediction, truth) == pytest.approx((16 + 4 / 3) / 40)

    def test_one_region_each_gives_their_iou(self):
        assert weighted_coverage(boxes((1, 5, 0, 4)), boxes((0, 4, 0, 4))) == pytest.approx(12 / 20)

    def test_a_prediction_that_joins_regions_pays_for_it(self):
        truth = boxes((0, 4, 0, 4), (0, 4, 5, 9))
        joined = boxes((0, 4, 0, 9))
        assert weighted_coverage(joined, truth) == pytest.approx(16 / 36)
        assert weighted_coverage(truth, truth) == 1

    def test_regions_that_meet_none_of_the_truth_cost_nothing(self):
        truth = boxes((0, 4, 0, 4))
        assert weighted_coverage(boxes((0, 4, 0, 4), (8, 10, 8, 10)), truth) == 1

    @pytest.mark.parametrize("shape", [(24, 30), (9, 10, 11)])
    @pytest.mark.parametrize("seed", range(3))
    def test_it_agrees_with_loops_whatever_the_numbers(self, shape, seed):
        rng = np.random.default_rng(seed)
        truth, prediction = (regions(ndimage.uniform_filter(rng.random(shape), 3) > 0.52) for _ in range(2))
        expected = by_loops(prediction, truth)
        assert 0 < expected < 1
        assert weighted_coverage(prediction, truth) == pytest.approx(expected)
        assert weighted_coverage(prediction * 1000, truth * 7) == pytest.approx(expected)
        covered = np.where(truth == 0, truth.max() + 1, truth)  # no background at all
        assert weighted_coverage(prediction, covered) == pytest.approx(by_loops(prediction, covered))

    def test_empty_masks(self):
        empty, some = boxes(), boxes((0, 4, 0, 4))
        assert math.isnan(weighted_coverage(empty, empty))
        assert math.isnan(weighted_coverage(some, empty))
        assert weighted_coverage(empty, some) == 0

    def test_other_shapes_are_refused(self):
        with pytest.raises(DataError, match="one grid"):
            weighted_coverage(boxes(), boxes(shape=(4, 4)))


class TestAreaRatio:
    def test_it_looks_at_areas_alone(self):
        one, other = boxes((0, 4, 0, 4)) > 0, boxes((6, 8, 10, 14)) > 0
        assert area_ratio(one, other) == area_ratio(other, one) == 8 / 16
        assert area_ratio(one, np.roll(one, 8, axis=1)) == 1

    def test_empty_masks(self):
        empty, some = boxes() > 0, boxes((0, 4, 0, 4)) > 0
        assert math.isnan(area_ratio(empty, empty))
        assert area_ratio(empty, some) == area_ratio(some, empty) == 0

    def test_other_shapes_are_refused(self):
        with pytest.raises(DataError, match="one grid"):
            area_ratio(boxes() > 0, boxes(shape=(4, 4)) > 0)


def test_regions_touch_at_corners():
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1]], dtype=bool)
    assert regions(mask).tolist() == [[1, 0, 0, 2], [0, 1, 0, 2]]
