from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep.image_pairs import convert, main
from data_prep.settings import Settings
from medsegdiff.errors import SpecError

NAMES = [f"case_{index}" for index in range(8)]  # of the fixture `source`


def test_several_classes_are_numbers_or_mapped_values(source, tmp_path, save, loaded_back):
    for name in NAMES:
        array = np.zeros((8, 10), np.uint8)
        array[2:4], array[4:6] = 1, 2
        save(source / "masks" / f"{name}.png", array)
    convert(source, tmp_path / "a", classes=["background", "one", "two"])
    assert set(np.unique(loaded_back(tmp_path / "a", channels=1, num_classes=3)[0]["label"])) == {0, 1, 2}
    arguments = [str(source), "--output", str(tmp_path / "b"), "--values", "0=0", "1=1", "2=1"]
    assert main(arguments) == 0
    assert loaded_back(tmp_path / "b", channels=1)[0]["label"].sum() == 4 * 10
    assert main([str(source), "--output", str(tmp_path / "c")]) == 2  # binary masks of 0, 1 and 2


def test_patterns_on_the_command_line(source, tmp_path, loaded_back):
    arguments = ["--image-pattern", "images/{case}.png", "--mask-pattern", "masks/{case}.png"]
    assert main([str(source), "--output", str(tmp_path / "out"), *arguments]) == 0
    assert len(loaded_back(tmp_path / "out", channels=1)) == len(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_pattern": ["{case}.png"]}, "got patterns for images or for masks only"),
        ({"classes": ["background"]}, "got the classes background; allowed are 2 or more"),
        ({"values": {0: 0, 1: 2}}, "got values for the classes 2; allowed are 0 to 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(source, tmp_path, options, message):
    with pytest.raises(SpecError, match=message):
        convert(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.real_data
def test_real_microscopy_with_a_mask_for_every_nucleus(data_root, tmp_path, loaded_back):
    source = tmp_path / "source"
    source.mkdir()
    for folder in sorted((data_root / "dsb2018" / "stage1_train").iterdir()):
        if Image.open(folder / "images" / f"{folder.name}.png").size == (256, 256) and len(os.listdir(source)) < 3:
            (source / folder.name).symlink_to(folder)
    if not os.listdir(source):
        pytest.skip("no real images of 256 x 256 pixels")
    patterns = {"image_pattern": ["{case}/images/*.png"], "mask_pattern": ["{case}/masks/*.png"]}
    conversion = convert(source, tmp_path / "out", settings=Settings(channels=3), **patterns)
    assert len(conversion.kept) == 3
    assert conversion.misfits == conversion.remarks == ()
    assert len(loaded_back(tmp_path / "out", channels=3)) == 3


@pytest.mark.real_data
def test_real_x_rays_in_grey_rgb_and_rgba_with_several_structures(data_root, tmp_path, loaded_back):
    source = tmp_path / "source"
    for name in ("ARDSSevere.png", "ards-secondary-to-tiger-snake-bite.png"):
        for folder in ("images", "labels"):
            (source / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(data_root / "cxr" / folder / name, source / folder)
    arguments = [str(source), "--output", str(tmp_path / "out"), "--average", "--size", "128", "--values"]
    assert main([*arguments, "0=0", "1=1", "2=1", "3=0", "4=0"]) == 0
    assert all(0.05 < item["label"].mean() < 0.6 for item in loaded_back(tmp_path / "out", channels=1))
