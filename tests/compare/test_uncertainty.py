"""Uncertainty of one case."""

from __future__ import annotations

import numpy as np
import pytest

from medsegdiff.compare.uncertainty import PooledUncertainty, case_uncertainty, entropy_map, normalised


def probabilities(foreground):
    p = np.asarray(foreground, float)
    return np.stack([1 - p, p])


def test_the_easy_background_does_not_count():
    truth = np.zeros((6, 6), int)
    truth[:2, :2] = 1
    small = case_uncertainty(probabilities(np.where(truth, 0.7, 0.1)), truth)
    padded_truth = np.pad(truth, 20)
    padded = case_uncertainty(probabilities(np.where(padded_truth, 0.7, 0.0)), padded_truth)

    assert small.row()["ece"] == pytest.approx(0.3)
    assert padded.row()["ece"] == pytest.approx(0.3)
    assert int(padded.bins.count.sum()) == 4


def test_uncertainty_that_finds_the_errors_has_no_area():
    truth = np.array([1, 1, 1, 0])
    found = case_uncertainty(probabilities([0.99, 0.98, 0.45, 0.55]), truth)
    blind = case_uncertainty(probabilities([0.55, 0.55, 0.01, 0.99]), truth)
    assert found.row()["ause"] == pytest.approx(0)
    assert blind.row()["ause"] > 0.3


def test_draws_have_a_distance_where_there_are_two():
    truth = np.array([[1, 1], [0, 0]])
    p = probabilities(truth)
    assert case_uncertainty(p, truth, [truth]).ged is None
    assert case_uncertainty(p, truth, [truth, truth]).ged == 0
    assert case_uncertainty(p, truth, [truth, 1 - truth]).ged == pytest.approx(2 * 0.5 - 0.5)


def test_what_was_cropped_away_is_background():
    p = np.array([[0.5, 0.0, 2.0], [0.5, 0.0, -1e-4]])
    np.testing.assert_allclose(normalised(p), [[0.5, 1.0, 1.0], [0.5, 0.0, 0.0]])
    np.testing.assert_allclose(entropy_map(normalised(p)), [1, 0, 0])


def test_cases_are_pooled_and_those_without_errors_have_no_curve():
    truth, pooled = np.array([1, 1, 1, 0]), PooledUncertainty()
    assert pooled.calibration() == pooled.sparsification() == []
    pooled.add("right", case_uncertainty(probabilities([0.9, 0.8, 0.7, 0.1]), truth))
    assert pooled.sparsification() == []
    found = [case_uncertainty(probabilities(p), truth) for p in ([0.9, 0.8, 0.45, 0.1], [0.55, 0.1, 0.2, 0.1])]
    for name, one in zip("ab", found, strict=True):
        pooled.add(name, one)
    assert [row["case"] for row in pooled.rows] == ["right", "a", "b"]
    assert sum(row["count"] for row in pooled.calibration()) == 3 * 3
    curve = pooled.sparsification()
    assert curve[0] == {"removed": 0, "error": pytest.approx(1), "oracle": pytest.approx(1)}
    np.testing.assert_allclose([row["error"] for row in curve], (found[0].curve.error + found[1].curve.error) / 2)
