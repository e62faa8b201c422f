"""Bundles that train on patches of large volumes: what is around a patch fills it, not blanks."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose


@pytest.mark.parametrize("name", ["brats", "amos_ct", "prostate_mr"])
def test_a_patch_of_ones_stays_one(repository, name):
    parser = ConfigParser()
    parser.read_config(str(repository / "bundles" / name / "configs" / "train.json"))
    parser.update({"dataset_dir": "data", "patch_size": [32, 32, 32]})
    augment = Compose(parser.get_parsed_content("train#random_transforms")).set_random_state(seed=0)
    ones, label = torch.ones(1, 112, 112, 112), torch.zeros(1, 112, 112, 112)
    label[:, 40:72, 40:72, 40:72] = 1
    for _ in range(4):
        made = augment({"image": ones, "label": label})
        patch = made[0] if isinstance(made, list) else made
        assert patch["image"].shape == patch["label"].shape == (1, 32, 32, 32)
        torch.testing.assert_close(patch["image"], torch.ones(1, 32, 32, 32))
