"""Uncertainty of one case."""

from __future__ import annotations

import numpy as np
import pytest

from medsegdiff.compare.uncertainty import case_uncertainty, entropy_map, normalised


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
    assert found.ause == pytest.approx(0)
    assert blind.ause > 0.3


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
