from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.apps.label.scoring import best_scored, disagreement, doubt
from medsegdiff.errors import SpecError


def _draws(number, *, classes=2):
    return list(np.random.default_rng(0).integers(0, classes, (number, 6, 7, 8)))


def test_of_two_draws_it_is_one_minus_their_dice(fake_prediction):
    a, b = _draws(2)
    dice = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert disagreement(fake_prediction([a, b], 2)) == pytest.approx(1 - dice)


@pytest.mark.parametrize("classes", [2, 4])
def test_of_more_draws_differences_and_sizes_are_averaged_over_pairs(fake_prediction, classes):
    draws = _draws(4, classes=classes)
    differing = np.mean([(a != b).sum() for a, b in combinations(draws, 2)])
    sizes = np.mean([(a > 0).sum() for a in draws])
    assert disagreement(fake_prediction(draws, classes)) == pytest.approx(min(1, differing / (2 * sizes)))


def test_draws_that_agree_or_find_nothing_do_not_disagree(fake_prediction):
    (a,) = _draws(1)
    assert disagreement(fake_prediction([a, a, a], 2)) == 0
    assert disagreement(fake_prediction([0 * a, 0 * a], 2)) == 0


def test_a_single_draw_is_refused(fake_prediction):
    with pytest.raises(SpecError, match="2 draws"):
        disagreement(fake_prediction(_draws(1), 2))


def test_doubt_is_the_entropy_of_each_voxel_of_the_foreground(fake_prediction):
    a, b = np.zeros((2, 6, 7, 8), int)
    a[0, 0, :4] = b[0, 0, :4] = a[1, 0, :2] = 1
    # Two of five expected voxels are as open as can be, the others are certain.
    assert doubt(fake_prediction([a, b], 2)) == pytest.approx(2 / 5, abs=1e-4)
    assert doubt(fake_prediction([a, a], 2)) == pytest.approx(0, abs=1e-4)
    assert doubt(fake_prediction([0 * a, 0 * a], 2)) == 0


class Infos:
    def __init__(self, scores, entropies=None):
        self.scores, self.entropies = scores, entropies or {}

    def get_image_info(self, image_id):
        score = self.scores[image_id]
        entry = {"score": score} | ({"entropy": self.entropies[image_id]} if image_id in self.entropies else {})
        return {} if score == "none" else {"disagreement": {"bundle": entry}}


def test_the_best_is_the_most_uncertain_and_those_without_a_score_are_named():
    scores = {"a": 0.1, "b": "none", "c": 0.4, "d": None, "e": 0.4}
    assert best_scored(list(scores), Infos(scores), "bundle") == ("c", 0.4, ["b"])
    assert best_scored(["b", "d"], Infos(scores), "bundle") == (None, None, ["b"])


def test_where_draws_agree_as_well_entropy_decides():
    scores = {"a": 2e-6, "b": 1e-6, "c": 3e-6}
    assert best_scored(list(scores), Infos(scores, {"a": 0.2, "b": 0.3, "c": 0.1}), "bundle")[:2] == ("b", 1e-6)
    scores["a"] = 0.02
    assert best_scored(list(scores), Infos(scores, {"a": 0.2, "b": 0.3, "c": 0.1}), "bundle")[:2] == ("a", 0.02)
