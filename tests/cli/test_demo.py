"""The demo: its picture, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from medsegdiff.cli.demo import draw_panels, run_demo
from medsegdiff.errors import SpecError


def test_the_picture_has_a_row_a_case_and_shows_the_slice_with_most_foreground(tmp_path):
    rng = np.random.default_rng(0)
    truth = np.zeros((10, 12, 6), np.uint8)
    truth[3:6, 3:6, 4] = 1
    case = ("a", rng.random(truth.shape), truth, truth, rng.random(truth.shape))
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    draw_panels([case], one)
    draw_panels([case, case], two)
    assert imread(two).shape[0] > 1.8 * imread(one).shape[0]
    assert imread(one).std() > 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_a_method_that_does_not_exist_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(SpecError, match="method 'nope' does not exist; use one of supervised"):
        run_demo(tmp_path / "out", method="nope", epochs=1, draws=1, cases=1, seed=0)
