from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from data_prep.cityscapes import convert, crop_box, main, read_objects, visible_objects
from data_prep.settings import Settings
from medsegdiff.data.splits import PARTS
from medsegdiff.errors import DataError, SpecError

SIZE = (60, 40)  # width, height


def _square(x, y, side=10):
    """An outline whose pixels are side x side from (x, y)."""
    last = side - 1
    return [[x, y], [x + last, y], [x + last, y + last], [x, y + last]]


def _annotate(root, part, city, number, objects, *, size=SIZE, image_size=SIZE):
    stem = f"{city}_{number:06}_000019"
    image = root / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png"
    polygons = root / "gtFine" / part / city / f"{stem}_gtFine_polygons.json"
    for path in (image, polygons):
        path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (image_size[1], image_size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(image)
    entries = [{"label": label, "polygon": polygon} for label, polygon in objects]
    polygons.write_text(json.dumps({"imgWidth": size[0], "imgHeight": size[1], "objects": entries}))
    return image, polygons


@pytest.fixture
def source(tmp_path):
    """The published layout: a bus half covered by a car in each picture, and a second bus."""
    root = tmp_path / "source"
    objects = [
        ("road", [[0, 20], [59, 20], [59, 39], [0, 39]]),
        ("bus", _square(10, 10, 20)),
        ("busgroup", _square(0, 30, 8)),
        ("car", _square(20, 5, 30)),
        ("bus", _square(50, 30, 10)),
    ]
    for number, city in enumerate(("aachen", "aachen", "bochum", "weimar", "zurich")):
        _annotate(root, "train", city, number, objects)
    _annotate(root, "val", "frankfurt", 9, objects)
    _annotate(root, "test", "berlin", 10, objects)
    return root


def _size(folder, case):
    return Image.open(folder / "imagesTr" / f"{case}.png").size


def test_tight_crops_are_the_box_around_what_is_seen(source, tmp_path, loaded_back):
    conversion = convert(source, tmp_path / "out", category="bus", protocol="tight")
    assert conversion.misfits == conversion.remarks == ()
    case = "aachen_000000_000019_object002"
    assert case in conversion.kept
    image = np.asarray(Image.open(source / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"))
    crop = np.asarray(Image.open(tmp_path / "out" / "imagesTr" / f"{case}.png"))
    np.testing.assert_array_equal(crop, image[10:30, 10:20])
    assert np.asarray(Image.open(tmp_path / "out" / "labelsTr" / f"{case}.png")).all()
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "bus"}
    assert content["name"] == "cityscapes_bus_tight"


def test_expanded_crops_are_fifteen_per_cent_larger_and_of_training_between_ten_and_twenty(tmp_path, loaded_back):
    for number in range(12):
        part, city = ("val", "frankfurt") if number > 7 else ("train", "weimar" if number > 5 else "aachen")
        _annotate(tmp_path / "source", part, city, number, [("car", _square(20, 20, 40))], **_big())
    conversion = convert(tmp_path / "source", tmp_path / "a", category="car")
    sizes = {part: {_size(tmp_path / "a", case) for case in conversion.split[part]} for part in PARTS}
    assert sizes["test"] == sizes["validation"] == {(46, 46)}
    assert len(sizes["training"]) > 1
    assert all(width == height and 44 <= width <= 50 for width, height in sizes["training"])
    for item in loaded_back(tmp_path / "a", channels=3):
        assert item["label"].sum() == 40 * 40
    # Drawn once: the same again, others with another seed.
    convert(tmp_path / "source", tmp_path / "b", category="car")
    convert(tmp_path / "source", tmp_path / "c", category="car", settings=Settings(channels=3, seed=1))
    drawn = [{case: _size(tmp_path / name, case) for case in conversion.kept} for name in "abc"]
    assert drawn[0] == drawn[1] != drawn[2]


def _big():
    return {"size": (80, 80), "image_size": (80, 80)}


def test_val_is_the_test_part_and_two_cities_are_for_validation(source, tmp_path):
    split = convert(source, tmp_path / "out", category="bus").split
    assert {case.split("_")[0] for case in split["training"]} == {"aachen", "bochum"}
    assert {case.split("_")[0] for case in split["validation"]} == {"weimar", "zurich"}
    assert {case.split("_")[0] for case in split["test"]} == {"frankfurt"}
    assert [len(split[part]) for part in PARTS] == [6, 4, 2]


def test_crops_of_one_picture_stay_together(source, tmp_path):
    for path in (*source.rglob("weimar*"), *source.rglob("zurich*")):
        if path.is_file():
            path.unlink()
    convert(source, tmp_path / "out", category="bus", settings=Settings(channels=3, folds=3))
    splits = tmp_path / "out" / "splits"
    parts = [json.loads(path.read_text()) for path in splits.glob("*.json")]
    groups = [
        [{case.rpartition("_object")[0] for case in cases} for cases in (part.get("folds") or [part[p] for p in PARTS])]
        for part in parts
    ]
    assert len(groups) == 2
    for group in groups:
        assert sum(map(len, group)) == len(set().union(*group)) == 4


def test_groups_and_other_classes_are_left_out(source, tmp_path):
    assert len(convert(source, tmp_path / "a", category="bus").kept) == 2 * 6
    conversion = convert(source, tmp_path / "b", category="car")
    assert [case.rpartition("_")[2] for case in conversion.kept] == ["object004"] * 6
    assert np.asarray(Image.open(tmp_path / "b" / "labelsTr" / f"{conversion.kept[0]}.png")).sum() == 30 * 30


def test_objects_that_are_hidden_or_small_are_misfits(tmp_path):
    objects = [("bus", _square(10, 10)), ("car", _square(5, 5, 20)), ("bus", _square(40, 20, 4))]
    for number in range(3):
        _annotate(tmp_path / "source", "train", "aachen", number, objects)
    conversion = convert(tmp_path / "source", tmp_path / "out", category="bus", min_pixels=16)
    assert len(conversion.kept) == 3
    assert conversion.misfits[0].reason == (
        "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json: got object 1 of which 0 pixels are seen; "
        "allowed are 16 or more; it is left out"
    )
    assert len(convert(tmp_path / "source", tmp_path / "none", category="car", min_pixels=17).kept) == 3
    with pytest.raises(DataError, match="got no sound pair and 6 misfits"):
        convert(tmp_path / "source", tmp_path / "few", category="bus", min_pixels=17)


def test_what_is_seen_is_painted_in_order():
    seen = visible_objects([_square(0, 0, 3), _square(2, 1, 3)], (6, 4))
    expected = np.zeros((6, 4), int)
    expected[0:3, 0:3], expected[2:5, 1:4] = 1, 2
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize(
    ("expansion", "box"),
    [(0.0, (slice(4, 8), slice(0, 2))), (0.15, (slice(3, 9), slice(0, 3))), (9, (slice(0, 10),) * 2)],
)
def test_a_box_grows_about_its_centre_within_the_picture(expansion, box):
    mask = np.zeros((10, 10), bool)
    mask[4:8, 0:2] = True
    assert crop_box(mask, expansion) == box


@pytest.mark.parametrize(
    "content", ["", "no JSON", "[]", "{}", '{"imgWidth": 3, "imgHeight": 3, "objects": [{"label": "bus"}]}', "null"]
)
def test_polygons_that_cannot_be_read_are_a_misfit_in_one_line(source, tmp_path, content):
    path = source / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_polygons.json"
    path.write_text(content)
    with pytest.raises(DataError, match="cannot be read as polygons") as caught:
        read_objects(path)
    assert "\n" not in str(caught.value)
    (misfit,) = convert(source, tmp_path / "out", category="bus").misfits
    assert misfit.case == "aachen_000000_000019"
    assert misfit.reason.startswith("gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json: cannot be read")


def test_a_missing_picture_and_one_of_another_size_are_misfits(source, tmp_path):
    (source / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png").unlink()
    _annotate(source, "train", "bochum", 2, [("bus", _square(0, 0))], size=(80, 40))
    reasons = {misfit.case: misfit.reason for misfit in convert(source, tmp_path / "out", category="bus").misfits}
    assert reasons["aachen_000000_000019"].endswith("polygons without aachen_000000_000019_leftImg8bit.png")
    assert "got polygons for 80 x 40 pixels where" in reasons["bochum_000002_000019_object001"]


def test_deleted_objects_and_lines_are_none(tmp_path):
    _, polygons = _annotate(tmp_path, "train", "aachen", 0, [("bus", _square(0, 0)), ("car", [[0, 0], [1, 1]])])
    content = json.loads(polygons.read_text())
    content["objects"].append({"label": "car", "deleted": 1, "polygon": _square(0, 0)})
    polygons.write_text(json.dumps(content))
    size, objects = read_objects(polygons)
    assert size == SIZE
    assert [label for label, _ in objects] == ["bus"]


def test_the_command(source, tmp_path, capsys):
    arguments = [str(source), "--output", str(tmp_path / "out"), "--category", "bus", "--protocol", "tight"]
    assert main([*arguments, "--size", "16", "--channels", "1", "--average"]) == 0
    assert "kept 12 pairs (6 training, 4 validation, 2 test)" in capsys.readouterr().out
    assert _size(tmp_path / "out", "frankfurt_000009_000019_object002") == (16, 16)
    assert (tmp_path / "out" / "splits" / "cityscapes_bus_tight_6_4_2.json").is_file()


@pytest.mark.parametrize("options", [{"category": "tram"}, {"category": "bus", "protocol": "loose"}])
def test_other_categories_and_protocols_are_refused(source, tmp_path, options):
    with pytest.raises(SpecError, match=r"got (category='tram'|protocol='loose'); allowed are"):
        convert(source, tmp_path / "out", **options)
