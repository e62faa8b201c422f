"""Fusing draws from the command line."""

from __future__ import annotations

import json

import nibabel
import numpy as np


def test_draws_are_fused_by_majority_on_request(predict, save_image, tmp_path):
    image = save_image(tmp_path / "a.nii.gz")
    assert predict(image, "--draws", 3, "--fusion", "majority", "--probabilities").exit_code == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["fusion"] == "majority"
    votes = 3 * nibabel.load(tmp_path / "out" / "a_probabilities.nii.gz").get_fdata()
    np.testing.assert_allclose(votes, votes.round(), atol=1e-3)  # of three draws, on the grid that they were made on


def test_a_fusion_that_does_not_exist_is_refused(predict, save_image, tmp_path):
    result = predict(save_image(tmp_path / "a.nii.gz"), "--fusion", "median")
    assert result.exit_code == 2
    assert "'median' does not exist; use one of mean" in result.stderr
