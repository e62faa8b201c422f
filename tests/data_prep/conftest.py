"""Fixtures of the converters."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
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


AFFINE = np.array([[0, -1.5, 0, 9], [2, 0, 0, -7], [0, 0.2, 3, 5], [0, 0, 0, 1]])
SHAPE = (5, 4, 3)


@pytest.fixture
def save_volume() -> Callable[..., Path]:
    """Write a NIfTI file on one oblique grid; of no array, noise of this seed."""

    def write(path: Path, array: np.ndarray | None = None, *, seed: int = 0, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(seed).random(SHAPE, np.float32) if array is None else array
        nibabel.save(nibabel.Nifti1Image(array, AFFINE if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def label_volume() -> Callable[..., np.ndarray]:
    """A label that holds these values and no others."""

    def make(*values: int, dtype: Any = np.uint8) -> np.ndarray:
        return np.resize(np.array(values, dtype), SHAPE)

    return make


@pytest.fixture
def pack() -> Callable[..., Path]:
    """Put what is in a folder into an archive, whose kind its name says."""

    def make(folder: Path, archive: Path) -> Path:
        archive.parent.mkdir(parents=True, exist_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive, "w") as packed:
                for file in files:
                    packed.write(file, file.relative_to(folder))
        else:
            with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
                for file in files:
                    tar.add(file, file.relative_to(folder))
        return archive

    return make


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The files below a folder, hidden ones too, and what is in them."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture
def volumes_back() -> Callable[..., list[dict[str, Any]]]:
    """What MONAI loads of a converted folder of volumes, through our checks and reader, in the order of the names."""

    def load(folder: Path, *, channels: int, num_classes: int) -> list[dict[str, Any]]:
        content = json.loads((folder / "dataset.json").read_text())
        assert content["tensorImageSize"] == "3D"
        assert len(content["modality"]) == channels
        assert len(content["labels"]) == num_classes
        items = []
        for case in all_cases(folder):
            check_pair(case["image"], case["label"], num_classes=num_classes, channels=channels)
            transforms = Compose(
                [
                    LoadImaged(key, reader=CheckedReader(spatial_dims=3, channels=number), ensure_channel_first=True)
                    for key, number in (("image", channels), ("label", 1))
                ]
            )
            items.append(transforms(case))
        return items

    return load
