"""A small data set to look at."""

from __future__ import annotations

import pytest

from tests.data.labelled_folder import NAMES, describe, make_image, make_label, save


@pytest.fixture
def folder(tmp_path):
    """Six sound cases of two classes, listed in dataset.json."""
    root = tmp_path / "data"
    for index, name in enumerate(NAMES):
        save(root / "imagesTr" / f"{name}.nii.gz", make_image(index))
        save(root / "labelsTr" / f"{name}.nii.gz", make_label())
    describe(root)
    return root
