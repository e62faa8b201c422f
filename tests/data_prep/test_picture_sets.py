"""The frame of all converters of 2-D data, seen through the one that adds least to it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_prep.image_pairs import convert, main
from data_prep.settings import Settings
from medsegdiff.errors import DataError

NAMES = [f"case_{index}" for index in range(8)]  # of the fixture `source`


def _archive(source, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in source.rglob("*.png"):
                packed.write(file, file.relative_to(source.parent))
    else:
        with tarfile.open(path, "w") as tar:
            tar.add(source, source.name)
    return path


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pairs_become_a_folder_that_monai_loads(source, tmp_path, picture, mask, loaded_back):
    output = tmp_path / "new" / "out"
    conversion = convert(source, output, name="task", classes=["background", "spot"])
    assert conversion.kept == tuple(NAMES)
    assert conversion.misfits == conversion.remarks == ()
    items = loaded_back(output, channels=1)
    np.testing.assert_array_equal(items[3]["image"][0], picture(3).T)
    np.testing.assert_array_equal(items[3]["label"][0], mask(value=1).T)
    content = json.loads((output / "dataset.json").read_text())
    assert content["name"] == "task"
    assert content["labels"] == {"0": "background", "1": "spot"}
    assert content["splits"] == {"default": "splits/task_5_1_2.json", "folds": "splits/folds.json"}
    assert json.loads((output / "misfits.json").read_text()) == {"misfits": [], "remarks": [], "left_out": {}}


def test_colour_images(tmp_path, picture, mask, save, loaded_back):
    for seed, name in enumerate(NAMES):
        save(tmp_path / "source" / f"{name}.tif", picture(seed, channels=3))
        save(tmp_path / "source" / f"{name}_mask.png", mask())
    convert(tmp_path / "source", tmp_path / "out", settings=Settings(channels=3))
    items = loaded_back(tmp_path / "out", channels=3)
    np.testing.assert_array_equal(items[2]["image"], picture(2, channels=3).transpose(2, 1, 0))


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_an_archive_gives_what_its_folder_gives(source, tmp_path, name):
    (source / "masks" / f"{NAMES[0]}.png").unlink()
    Image.new("L", (10, 8)).save(source / "masks" / f"{NAMES[1]}.png")
    folder, archive = tmp_path / "a", tmp_path / "b"
    assert convert(source, folder).misfits[1].reason.startswith("labelsTr/case_1.png: got a label without foreground")
    convert(_archive(source, tmp_path / name), archive)
    ours, theirs = _files(folder), _files(archive)
    ours["misfits.json"] = ours["misfits.json"].replace(b"images/", b"source/images/")
    assert ours == theirs


def test_the_source_may_be_a_relative_path(source, tmp_path, monkeypatch):
    (source / "images" / f"{NAMES[0]}.png").write_text("no picture")
    monkeypatch.chdir(source)
    conversion = convert(".", tmp_path / "out")
    assert conversion.misfits[0].reason.startswith(f"images/{NAMES[0]}.png: cannot be read")


def _spoil(source):
    """Spoil each pair but the last two in another way; returns what the reasons must say."""
    images, masks = source / "images", source / "masks"
    rgb = np.random.default_rng(0).integers(0, 256, (8, 10, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(images / f"{NAMES[0]}.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 200).save(images / f"{NAMES[1]}.png")
    Image.new("L", (9, 8)).save(masks / f"{NAMES[2]}.png")
    Image.new("L", (10, 8), 77).save(images / f"{NAMES[3]}.png")
    (masks / f"{NAMES[4]}.png").unlink()
    shutil.move(images / f"{NAMES[5]}.png", images / "other.png")
    return {
        NAMES[0]: f"images/{NAMES[0]}.png: got a colour image; allowed is a grey one",
        NAMES[1]: f"images/{NAMES[1]}.png: got pixels of type uint16",
        NAMES[2]: f"masks/{NAMES[2]}.png: got 9 x 8 pixels where images/{NAMES[2]}.png has 10 x 8",
        NAMES[3]: f"imagesTr/{NAMES[3]}.png: got the value 77 in every voxel",
        NAMES[4]: f"images/{NAMES[4]}.png: an image without a mask",
        NAMES[5]: f"masks/{NAMES[5]}.png: a mask without an image",
        "other": "images/other.png: an image without a mask",
    }


@pytest.mark.parametrize("archive", [False, True])
def test_misfits_are_reported_by_name_and_reason_and_not_kept(source, tmp_path, archive):
    expected = _spoil(source)
    output = tmp_path / "out"
    conversion = convert(_archive(source, tmp_path / "a.zip") if archive else source, output)
    assert conversion.kept == tuple(NAMES[6:])
    assert [misfit.case for misfit in conversion.misfits] == sorted(expected)
    for misfit in conversion.misfits:
        assert misfit.reason.replace("source/", "").startswith(expected[misfit.case])
        assert str(tmp_path) not in misfit.reason
        assert "\n" not in misfit.reason
    written = json.loads((output / "misfits.json").read_text())["misfits"]
    assert [entry["case"] for entry in written] == sorted(expected)
    assert sorted(path.name for path in output.iterdir() if path.name != "splits") == sorted(
        ["dataset.json", "imagesTr", "labelsTr", "misfits.json"]
    )
    for folder in ("imagesTr", "labelsTr"):
        assert sorted(os.listdir(output / folder)) == [f"{name}.png" for name in NAMES[6:]]


def test_the_options_mend_what_can_be_mended(source, tmp_path):
    _spoil(source)
    settings = Settings(average=True, rescale=True)
    assert {NAMES[0], NAMES[1]} <= set(convert(source, tmp_path / "out", settings=settings).kept)


def test_remarks_are_logged_counted_and_written(source, tmp_path, mask, save, caplog, capsys):
    array = mask()
    array[0, :3] = 90
    save(source / "masks" / f"{NAMES[0]}.png", array)
    assert main([str(source), "--output", str(tmp_path / "out"), "--folds", "2"]) == 0
    reason = f"masks/{NAMES[0]}.png: 3 of 80 pixels lie between 0 and 255; thresholded at one half"
    assert caplog.messages == [reason]
    assert "kept 8 pairs (5 training, 1 validation, 2 test), 0 misfits, 1 remarks" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "misfits.json").read_text())
    assert written == {"misfits": [], "remarks": [{"case": NAMES[0], "reason": reason}], "left_out": {}}


def test_a_size_is_that_of_images_and_labels(source, tmp_path, loaded_back):
    assert main([str(source), "--output", str(tmp_path / "out"), "--size", "16"]) == 0
    item = loaded_back(tmp_path / "out", channels=1)[0]
    assert item["image"].shape == item["label"].shape == (1, 16, 16)


def test_published_parts_are_the_split(source, tmp_path):
    for name in NAMES:
        part = "test" if name > "case_5" else "train"
        for folder in ("images", "masks"):
            (source / part / folder).mkdir(parents=True, exist_ok=True)
            shutil.move(source / folder / f"{name}.png", source / part / folder)
    assert convert(source, tmp_path / "out").split["test"] == NAMES[6:]


def test_a_source_that_is_missing_or_empty_and_an_output_that_is_not(source, tmp_path):
    with pytest.raises(DataError, match=r"absent\.zip: there is no such file or folder"):
        convert(tmp_path / "absent.zip", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got no sound pair and 0 misfits; allowed is the layout"):
        convert(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="allowed is a new or empty folder"):
        convert(source, source)


def test_a_disk_that_fills_up_leaves_nothing(source, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(DataError, match=r"out: cannot be made .*No space left on device"):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
