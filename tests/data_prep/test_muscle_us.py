from __future__ import annotations

import json

import numpy as np
import pytest

from data_prep import muscle_us
from data_prep.muscle_us import convert, main
from data_prep.pairing import pairs_by_name
from data_prep.settings import Settings
from medsegdiff.data.splits import proportional, three_way, write_split

NAMES = [f"img_{index:05}" for index in range(12)]


@pytest.fixture
def source(tmp_path, picture, mask, save):
    root = tmp_path / "source"
    for seed, name in enumerate(NAMES):
        save(root / "images" / f"{name}.png", picture(seed))
        save(root / "masks" / f"{name}.png", mask())
    return root


def test_pairs_of_one_folder_are_split_by_the_seed(source, tmp_path, picture, loaded_back):
    conversion = convert(source, tmp_path / "out")
    assert conversion.kept == tuple(NAMES)
    assert conversion.split == proportional(NAMES, seed=0)
    np.testing.assert_array_equal(loaded_back(tmp_path / "out", channels=1)[2]["image"][0], picture(2).T)


@pytest.mark.parametrize(
    ("images", "masks"), [("{part}/images", "{part}/masks"), ("image_{part}", "mask_{part}"), ("{part}", "{part}")]
)
def test_published_parts_are_taken_from_folders_in_any_layout(
    tmp_path, picture, mask, save, images, masks, loaded_back
):
    same_folder = images == masks
    for seed, name in enumerate(NAMES):
        part = "train" if seed < 7 else "val" if seed < 9 else "test"
        save(tmp_path / "source" / images.format(part=part) / f"{name}.jpg", picture(seed), quality=100)
        mask_name = f"{name}_mask.png" if same_folder else f"{name}.png"
        save(tmp_path / "source" / masks.format(part=part) / mask_name, mask())
    conversion = convert(tmp_path / "source", tmp_path / "out")
    assert conversion.split == {"training": NAMES[:7], "validation": NAMES[7:9], "test": NAMES[9:]}
    assert (tmp_path / "out" / "splits" / "muscle_us_7_2_3.json").is_file()
    loaded_back(tmp_path / "out", channels=1)


def test_the_split_of_the_tables_is_taken_where_its_cases_are(source, tmp_path, monkeypatch):
    table = {"training": NAMES[:8], "validation": NAMES[8:9], "test": NAMES[9:]}
    write_split(tmp_path / "table.json", table)
    monkeypatch.setattr(muscle_us, "TABLE_SPLIT", tmp_path / "table.json")
    assert convert(source, tmp_path / "a").split == table
    assert convert(source, tmp_path / "b", settings=Settings(seed=3)).split == proportional(NAMES, seed=3)


@pytest.mark.parametrize(("options", "name"), [([], "muscle"), (["--structure", "aponeurosis"], "aponeurosis")])
def test_the_structure_names_the_class(source, tmp_path, options, name):
    assert main([str(source), "--output", str(tmp_path / "out"), *options]) == 0
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": name}
    assert content["modality"] == {"0": "ultrasound"}


@pytest.mark.real_data
def test_real_pictures(data_root, tmp_path, loaded_back):
    for folder in ("images", "masks"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for path in sorted((data_root / "muscle_us" / folder).iterdir())[:5]:
            (tmp_path / "source" / folder / path.name).symlink_to(path)
    conversion = convert(tmp_path / "source", tmp_path / "out", structure="aponeurosis")
    assert len(conversion.kept) == 5
    assert conversion.misfits == conversion.remarks == ()
    item = loaded_back(tmp_path / "out", channels=1)[0]
    assert item["image"].shape == (1, 512, 480)
    # Aponeuroses are bright bands.
    assert item["image"][item["label"] == 1].mean() > item["image"][item["label"] == 0].mean() + 20


@pytest.mark.real_data
def test_the_committed_split_is_the_seeded_one_of_the_real_pictures(data_root, repository, tmp_path):
    pairs = pairs_by_name(data_root / "muscle_us")
    assert (len(pairs.cases), pairs.misfits) == (160, ())
    assert repository / "bundles" / "muscle_us" / "configs" / "split_112_16_32.json" == muscle_us.TABLE_SPLIT
    split = three_way((files.case for files in pairs.cases), training=112, validation=16, test=32, seed=0)
    write_split(tmp_path / "split.json", split, name="muscle_us_112_16_32", seed=0)
    assert (tmp_path / "split.json").read_bytes() == muscle_us.TABLE_SPLIT.read_bytes()
