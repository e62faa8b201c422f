"""The boundary F-measure: hand-computed masks, empty and full ones, and a second implementation by dilation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter
from skimage.morphology import disk

from medsegdiff.errors import DataError, SpecError
from medsegdiff.metrics.boundary import boundary, boundary_f


def dot(x: int, y: int, shape=(12, 12)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[x, y] = True
    return mask


def half(columns: int, shape=(9, 20)) -> np.ndarray:
    """A mask that fills the image up to a column: its boundary is the last of them."""
    mask = np.zeros(shape, dtype=bool)
    mask[:, :columns] = True
    return mask


def blobs(seed: int, shape=(40, 33)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(shape), 2, mode="wrap")
    return field + 0.5 * gaussian_filter(rng.standard_normal(shape), 2, mode="wrap") > 0.05, field > 0.05


def by_dilation(prediction: np.ndarray, truth: np.ndarray, tolerances) -> float:
    """The definition word for word: boundary maps pixel by pixel, matched after a dilation with a disk."""

    def outline(mask: np.ndarray) -> np.ndarray:
        result = np.zeros_like(mask)
        for x, y in np.ndindex(*mask.shape):
            neighbours = [(x + 1, y), (x, y + 1), (x + 1, y + 1)]
            inside = [(min(u, mask.shape[0] - 1), min(v, mask.shape[1] - 1)) for u, v in neighbours]
            result[x, y] = any(mask[x, y] != mask[place] for place in inside)
        return result

    p, t = outline(prediction), outline(truth)
    scores = []
    for r in tolerances:
        precision = (p & binary_dilation(t, disk(r))).sum() / p.sum()
        recall = (t & binary_dilation(p, disk(r))).sum() / t.sum()
        scores.append(0 if precision + recall == 0 else 2 * precision * recall / (precision + recall))
    return sum(scores) / len(scores)


class TestBoundary:
    def test_a_pixel_is_outlined_by_itself_and_its_three_earlier_neighbours(self):
        assert np.argwhere(boundary(dot(4, 6))).tolist() == [[3, 5], [3, 6], [4, 5], [4, 6]]

    def test_the_edge_of_the_image_is_no_boundary(self):
        assert np.argwhere(boundary(half(5))).tolist() == [[x, 4] for x in range(9)]
        assert not boundary(np.ones((4, 4), dtype=bool)).any()
        assert np.argwhere(boundary(dot(11, 11))).tolist() == [[10, 10], [10, 11], [11, 10]]

    def test_the_order_of_the_axes_does_not_matter(self):
        mask, _ = blobs(0)
        np.testing.assert_array_equal(boundary(mask.T), boundary(mask).T)


class TestBoundaryF:
    @pytest.mark.parametrize(("shift", "expected"), [(0, 1), (1, 1), (2, 4 / 5), (4, 2 / 5), (5, 1 / 5), (6, 0)])
    def test_a_straight_outline_counts_at_the_tolerances_from_its_shift_on(self, shift, expected):
        assert boundary_f(half(10 + shift), half(10)) == pytest.approx(expected)

    def test_precision_and_recall_by_hand(self):
        # Two dots, 4 boundary pixels each, of which the prediction has one: precision 1, recall 1/2.
        truth = dot(2, 2) | dot(9, 9)
        assert boundary_f(dot(2, 2), truth) == pytest.approx(2 / 3)
        assert boundary_f(truth, dot(2, 2)) == pytest.approx(2 / 3)

    def test_the_tolerance_is_a_euclidean_disk_with_its_rim(self):
        # Shifted by (3, 4): 5 pixels. At a tolerance of 4.9 three of four boundary pixels find a nearer partner.
        prediction, truth = dot(8, 9, (20, 20)), dot(5, 5, (20, 20))
        assert boundary_f(prediction, truth, tolerances=[5]) == 1
        assert boundary_f(prediction, truth, tolerances=[4.99]) == pytest.approx(3 / 4)

    def test_it_is_one_for_equal_masks_even_without_tolerance(self):
        mask, _ = blobs(1)
        assert boundary_f(mask, mask, tolerances=[0]) == 1

    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_symmetric_and_agrees_with_dilations(self, seed):
        prediction, truth = blobs(seed)
        score = boundary_f(prediction, truth)
        assert 0 < score < 1
        assert score == pytest.approx(boundary_f(truth, prediction))
        assert score == pytest.approx(by_dilation(prediction, truth, (1, 2, 3, 4, 5)))
        one = boundary_f(prediction, truth, tolerances=[2])
        assert one == pytest.approx(by_dilation(prediction, truth, [2]))

    def test_empty_and_full_masks(self):
        empty, full, some = np.zeros((6, 6), dtype=bool), np.ones((6, 6), dtype=bool), half(3, (6, 6))
        assert math.isnan(boundary_f(empty, empty))
        assert boundary_f(full, full) == 1
        for one, other in [(empty, some), (empty, full), (full, some)]:
            assert boundary_f(one, other) == boundary_f(other, one) == 0

    @pytest.mark.parametrize("shapes", [((4, 4), (4, 5)), ((4, 4, 4), (4, 4, 4)), ((4,), (4,))])
    def test_masks_of_other_shapes_are_refused(self, shapes):
        with pytest.raises(DataError, match=r"got masks of shapes \(4.*two 2-D masks on one grid"):
            boundary_f(*(np.ones(shape, dtype=bool) for shape in shapes))

    @pytest.mark.parametrize("tolerances", [[], [-1], [1, math.nan]])
    def test_tolerances_are_checked(self, tolerances):
        with pytest.raises(SpecError, match="tolerances is"):
            boundary_f(dot(1, 1), dot(1, 1), tolerances=tolerances)
