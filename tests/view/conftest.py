"""Cases to show, small and lopsided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
import pytest

from medsegdiff.view.shown_case import ShownCase, ShownClass, show_case

AFFINE = np.array([[0, 0, -2.0, 40], [-1.0, 0, 0, 20], [0, 1.5, 0, -7], [0, 0, 0, 1]])
"""First axis to the back, second to the head, third to the left."""


@pytest.fixture
def make_case(tmp_path) -> Callable[..., ShownCase]:
    """A case of noise whose one structure lies in a corner; `changes` are arguments of `show_case`."""

    def make(
        name: str = "case", *, shape: tuple[int, ...] = (6, 5, 4), empty: bool = False, **changes: Any
    ) -> ShownCase:
        label = np.zeros(shape, np.uint8)
        if not empty:
            label[(slice(2), slice(1), *[slice(1)] * (len(shape) - 2))] = 1
        path = tmp_path / "image.nii.gz"
        if "files" not in changes:
            image = np.random.default_rng(0).random(shape).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(image, AFFINE), path)
        arguments: dict[str, Any] = {
            "files": [path],
            "label": label,
            "uncertainty": label.astype(np.float32) / 2,
            "affine": AFFINE,
            "classes": [ShownClass("organ", (255, 0, 0), int(label.sum()), float(label.sum()) * 0.003)],
            "facts": {"model": "organs 1.0"},
        }
        return show_case(name, **{**arguments, **changes})

    return make
