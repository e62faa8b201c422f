"""Fixtures of the converters of 2-D data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.transforms import Compose, LoadImaged
from PIL import Image

from medsegdiff.data.datalist import all_cases, msd_datalist
from medsegdiff.data.image_reader import CheckedReader
from medsegdiff.data.integrity import check_pair
from medsegdiff.data.splits import PARTS


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """Noise as pixels (height, width[, channels])."""

    def make(seed: int = 0, *, size: tuple[int, int] = (8, 10), channels: int = 1) -> np.ndarray:
        shape = size if channels == 1 else (*size, channels)
        return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)

    return make


@pytest.fixture
def mask() -> Callable[..., np.ndarray]:
    """A rectangle as pixels (height, width)."""

    def make(*, size: tuple[int, int] = (8, 10), value: int = 255) -> np.ndarray:
        array = np.zeros(size, np.uint8)
        array[2:5, 3:9] = value
        return array

    return make


@pytest.fixture
def save() -> Callable[..., Path]:
    """Write pixels to a path whose folders are made."""

    def write(path: Path, array: np.ndarray, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, **options)
        return path

    return write


@pytest.fixture
def loaded_back() -> Callable[..., list[dict[str, Any]]]:
    """What MONAI loads of a converted folder, through our checks and reader; fails where any of them does."""

    def load(folder: Path, *, channels: int, num_classes: int = 2) -> list[dict[str, Any]]:
        content = json.loads((folder / "dataset.json").read_text())
        assert content["tensorImageSize"] == "2D"
        assert len(content["modality"]) == channels
        assert len(content["labels"]) == num_classes
        cases = all_cases(folder)
        if content["splits"]:
            datalist = msd_datalist(folder)
            assert all(datalist[part] for part in PARTS)
            assert {item["case"] for part in PARTS for item in datalist[part]} <= {item["case"] for item in cases}
        assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == sorted(
            path.name for path in (folder / "labelsTr").iterdir()
        )
        transforms = Compose(
            [
                LoadImaged(key, reader=CheckedReader(spatial_dims=2, channels=number), ensure_channel_first=True)
                for key, number in (("image", channels), ("label", 1))
            ]
        )
        items = []
        for case in cases:
            check_pair(case["image"], case["label"], num_classes=num_classes, spatial_dims=2, channels=channels)
            item = transforms(case)
            assert item["image"].shape == (channels, *item["label"].shape[1:])
            assert 0 <= item["label"].min() < item["label"].max() < num_classes
            items.append(item)
        return items

    return load


@pytest.fixture
def source(
    tmp_path: Path, picture: Callable[..., np.ndarray], mask: Callable[..., np.ndarray], save: Callable[..., Path]
) -> Path:
    """Grey images case_0 to case_7 and masks of the same names, in two folders."""
    root = tmp_path / "source"
    for seed in range(8):
        name = f"case_{seed}"
        save(root / "images" / f"{name}.png", picture(seed))
        save(root / "masks" / f"{name}.png", mask())
    return root
