from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_prep.settings import Settings
from data_prep.vaihingen import convert, main, segdiff_splits


def _name(index):
    return f"building_{index}"


@pytest.fixture
def source(tmp_path, picture, mask, save):
    """The published files of six buildings: image, mask of the central building and mask of all."""
    root = tmp_path / "source"
    for index in range(1, 7):
        save(root / f"building_{index}.tif", picture(index, channels=3))
        save(root / f"building_mask_{index}.tif", mask())
        save(root / f"building_mask_all_{index}.tif", np.full_like(mask(), 255))
    (root / "polygons.csv").write_text("1,2,3\n")
    return root


def test_images_are_resized_by_the_nearest_pixel(source, tmp_path, picture, loaded_back):
    conversion = convert(source, tmp_path / "out", settings=Settings(channels=3, size=16))
    assert conversion.misfits == conversion.remarks == ()
    rows, columns = (((np.arange(16) + 0.5) * length / 16).astype(int) for length in (8, 10))
    expected = picture(1, channels=3)[rows][:, columns]
    np.testing.assert_array_equal(loaded_back(tmp_path / "out", channels=3)[0]["image"], expected.transpose(2, 1, 0))


def test_masks_are_resized_bilinearly_and_thresholded(source, tmp_path, picture, save):
    noise = (picture(5) > 127).astype(np.uint8)
    save(source / "building_mask_1.tif", noise * 255)
    convert(source, tmp_path / "out", settings=Settings(channels=3, size=16))
    label = np.asarray(Image.open(tmp_path / "out" / "labelsTr" / "building_1.png"))
    soft, nearest = (
        np.asarray(Image.fromarray(noise.astype(np.float32)).resize((16, 16), kind))
        for kind in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
    )
    np.testing.assert_array_equal(label, soft > 0.5)
    assert (label != nearest).any()


def test_the_size_is_256_unless_said(source, tmp_path, loaded_back):
    assert main([str(source), "--output", str(tmp_path / "out")]) == 0
    assert loaded_back(tmp_path / "out", channels=3)[0]["image"].shape == (3, 256, 256)


def test_the_first_hundred_names_as_text_are_for_training_and_a_tenth_of_them_for_validation():
    names = sorted(_name(index) for index in range(1, 169))
    splits = segdiff_splits(dict.fromkeys(names), Settings())
    assert splits.split["test"] == names[100:]
    assert (len(splits.split["training"]), len(splits.split["validation"]), len(splits.split["test"])) == (90, 10, 68)
    assert sorted(splits.split["training"] + splits.split["validation"]) == names[:100]
    assert {"building_100", "building_168"} <= {*splits.split["training"], *splits.split["validation"]}
    assert "building_99" in splits.split["test"]


def test_other_numbers_are_said(caplog):
    names = [_name(index) for index in range(50)]
    assert len(segdiff_splits(dict.fromkeys(names), Settings()).split["test"]) == 10
    assert "got 50 cases where the paper has 168" in caplog.text


def test_folders_of_images_and_masks(tmp_path, picture, mask, save, loaded_back):
    for index in range(4):
        save(tmp_path / "source" / "images" / f"{index}.png", picture(index, channels=3))
        save(tmp_path / "source" / "masks" / f"{index}.png", mask(value=1))
    assert len(convert(tmp_path / "source", tmp_path / "out", settings=Settings(channels=3)).kept) == 4
    assert loaded_back(tmp_path / "out", channels=3)[0]["image"].shape == (3, 10, 8)
