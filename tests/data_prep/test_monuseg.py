from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep import monuseg
from data_prep.monuseg import convert, main, rasterise, read_outlines
from data_prep.pairing import pairs_by_pattern
from data_prep.pictures import load_image, load_mask
from data_prep.settings import Settings
from medsegdiff.data.splits import three_way, write_split
from medsegdiff.errors import DataError

TRAINING = [f"TCGA-18-00{index:02}-01Z-00-DX1" for index in range(6)]
TEST = [f"TCGA-2Z-A9J{index}-01A-01-TS1" for index in range(3)]
SQUARE = [(2, 1), (5, 1), (5, 4), (2, 4)]


def _xml(*outlines):
    """Outlines in the manner of ImageScope, with what else such a file holds."""
    regions = "".join(
        f'<Region Id="{number}" Type="0" NegativeROA="0" Text=""><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in outline)
        + "</Vertices></Region>"
        for number, outline in enumerate(outlines, start=1)
    )
    return (
        '<Annotations MicronsPerPixel="0.252000"><Annotation Id="1" Type="4"><Attributes><Attribute Name="D"/>'
        "</Attributes><Regions><RegionAttributeHeaders><AttributeHeader Id='9999' Name='Region'/>"
        f"</RegionAttributeHeaders>{regions}</Regions><Plots/></Annotation></Annotations>"
    )


@pytest.fixture
def source(tmp_path, picture, save):
    """The published layout: two folders for training, one for test."""
    root = tmp_path / "source"
    training, test = root / "MoNuSeg 2018 Training Data", root / "MoNuSegTestData"
    (training / "Annotations").mkdir(parents=True)
    for seed, name in enumerate(TRAINING):
        save(training / "Tissue Images" / f"{name}.tif", picture(seed, size=(8, 8), channels=3))
        (training / "Annotations" / f"{name}.xml").write_text(_xml(SQUARE))
    for name in TEST:
        save(test / f"{name}.tif", picture(size=(8, 8), channels=3))
        (test / f"{name}.xml").write_text(_xml(SQUARE))
    return root


def _dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def test_the_published_layout_becomes_pairs_with_the_published_test_part(source, tmp_path, picture, loaded_back):
    conversion = convert(source, tmp_path / "out")
    assert conversion.kept == tuple(TRAINING + TEST)
    assert conversion.misfits == conversion.remarks == ()
    assert conversion.split["test"] == TEST
    assert len(conversion.split["validation"]) == 1
    items = loaded_back(tmp_path / "out", channels=3)
    np.testing.assert_array_equal(items[1]["image"], picture(1, size=(8, 8), channels=3).transpose(2, 1, 0))
    expected = np.zeros((8, 8))
    expected[2:6, 1:5] = 1  # x, y
    np.testing.assert_array_equal(items[1]["label"][0], expected)
    labels = json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]
    assert labels == {"0": "background", "1": "nucleus"}


def test_pictures_with_masks(tmp_path, picture, mask, save, loaded_back):
    for seed, name in enumerate(TRAINING):
        save(tmp_path / "source" / "images" / f"{name}.png", picture(seed, channels=3))
        save(tmp_path / "source" / "masks" / f"{name}.png", np.stack([mask(), mask()], axis=-1))
    convert(tmp_path / "source", tmp_path / "out")
    np.testing.assert_array_equal(loaded_back(tmp_path / "out", channels=3)[0]["label"][0], mask(value=1).T)


def test_outlines_are_taken_before_a_mask(tmp_path, picture, mask, save):
    root = tmp_path / "source"
    save(root / "tissue_image" / "a.tif", picture(channels=3))
    save(root / "masks" / "a.png", mask())
    (root / "annotations").mkdir()
    (root / "annotations" / "a.xml").write_text(_xml(SQUARE))
    convert(root, tmp_path / "out")
    assert np.count_nonzero(np.asarray(Image.open(tmp_path / "out" / "labelsTr" / "a.png"))) == 16


def test_without_test_tiles_the_split_of_the_tables_is_taken(source, tmp_path, monkeypatch):
    shutil.rmtree(source / "MoNuSegTestData")
    table = {"training": TRAINING[:4], "validation": TRAINING[4:5], "test": TRAINING[5:]}
    write_split(tmp_path / "table.json", table)
    monkeypatch.setattr(monuseg, "TABLE_SPLIT", tmp_path / "table.json")
    assert convert(source, tmp_path / "out").split == table


def test_outlines_are_filled_and_united():
    label, remarks = rasterise([SQUARE, [(4, 3), (7, 3), (7, 6), (4, 6)], [(0, 0), (1, 0), (0, 1)]], (9, 8), source="a")
    assert label.shape == (9, 8)
    assert remarks == ()
    expected = np.zeros((9, 8))
    expected[2:6, 1:5] = expected[4:8, 3:7] = 1
    expected[0, :2], expected[1, 0] = 1, 1
    np.testing.assert_array_equal(label, expected)


def test_outlines_that_are_none_or_outside_are_counted():
    outlines = [
        SQUARE,
        [],
        [(1, 1), (2, 2)],
        [(20, 1), (30, 1), (30, 5)],
        [(1, -9), (3, -9), (3, -5)],
        [(6, 6), (20, 6), (20, 7)],
        [(-0.5, 0), (0, 0), (0, 0.5)],  # along the border
    ]
    label, remarks = rasterise(outlines, (8, 8), source="a.xml")
    message = "a.xml: of 7 outlines, 2 with fewer than three corners and 2 outside of the tile left out, 1 cut off"
    assert remarks[0].startswith(message)
    assert label[7, 6] == 1
    assert np.count_nonzero(label) <= 16 + 2 * 2 + 2


def test_such_outlines_are_a_remark_of_the_tile(source, tmp_path, caplog):
    path = source / "MoNuSegTestData" / f"{TEST[0]}.xml"
    path.write_text(_xml(SQUARE, SQUARE[:2]))
    conversion = convert(source, tmp_path / "out")
    assert TEST[0] in conversion.kept
    assert [remark.case for remark in conversion.remarks] == [TEST[0]]
    assert f"MoNuSegTestData/{TEST[0]}.xml: of 2 outlines, 1 with fewer than three corners" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no XML",
        _xml(SQUARE)[:-30],
        _xml(SQUARE).replace('X="5"', 'Z="5"'),
        _xml(SQUARE).replace('X="5"', 'X="five"'),
        _xml(SQUARE).replace('X="5"', 'X="nan"'),
    ],
    ids=["empty", "text", "truncated", "no X", "no number", "not a number"],
)
def test_xml_that_cannot_be_read_is_a_misfit_in_one_line(source, tmp_path, content):
    path = source / "MoNuSegTestData" / f"{TEST[0]}.xml"
    path.write_text(content)
    with pytest.raises(DataError, match=r"cannot be read as outlines|got corners that are no finite numbers") as caught:
        read_outlines(path)
    assert "\n" not in str(caught.value)
    (misfit,) = convert(source, tmp_path / "out").misfits
    assert misfit.case == TEST[0]
    assert misfit.reason.startswith(f"MoNuSegTestData/{TEST[0]}.xml: ")


def test_xml_without_outlines_is_a_misfit(source, tmp_path):
    (source / "MoNuSegTestData" / f"{TEST[0]}.xml").write_text(_xml())
    (misfit,) = convert(source, tmp_path / "out").misfits
    assert "got a label without foreground" in misfit.reason


def test_the_command(source, tmp_path, capsys):
    (source / "MoNuSegTestData" / f"{TEST[0]}.xml").unlink()
    assert main([str(source), "--output", str(tmp_path / "out"), "--size", "16"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "kept 8 pairs (5 training, 1 validation, 2 test), 1 misfits, see misfits.json" in first
    assert second == f"  {TEST[0]}: MoNuSegTestData/{TEST[0]}.tif: an image without a mask"
    assert Image.open(tmp_path / "out" / "imagesTr" / f"{TEST[1]}.png").size == (16, 16)


@pytest.mark.real_data
@pytest.mark.parametrize(("case", "cut"), [("TCGA-A7-A13E-01Z-00-DX1", 1), ("TCGA-AR-A1AK-01Z-00-DX1", 0)])
def test_real_outlines_give_the_published_mask(data_root, case, cut):
    original = data_root / "monuseg" / "original"
    path = original / "annotations" / f"{case}.xml"
    label, remarks = rasterise(read_outlines(path), (1000, 1000), source=path)
    assert _dice(label > 0, load_mask([original / "masks" / f"{case}.png"])[0] > 0) > 0.9999
    assert [remark.partition(" left out, ")[2] for remark in remarks] == ["1 cut off at its border"] * cut


@pytest.mark.real_data
def test_a_real_tile_at_512_pixels_is_that_of_the_tables(data_root, tmp_path, loaded_back):
    case = "TCGA-AR-A1AK-01Z-00-DX1"
    for folder, suffix in (("annotations", "xml"), ("masks", "png"), ("tissue_image", "tif")):
        (tmp_path / "source" / folder).mkdir(parents=True)
        shutil.copy(data_root / "monuseg" / "original" / folder / f"{case}.{suffix}", tmp_path / "source" / folder)
    convert(tmp_path / "source", tmp_path / "out", settings=Settings(channels=3, size=512))
    (item,) = loaded_back(tmp_path / "out", channels=3)
    prepared = data_root / "monuseg" / "train512"
    expected, _ = load_mask([prepared / "masks" / f"{case}.png"])
    assert _dice(item["label"][0].numpy() > 0, expected > 0) > 0.999
    image, _ = load_image(prepared / "images" / f"{case}.png", channels=3)
    assert np.abs(item["image"].numpy() - image.transpose(2, 0, 1)).mean() < 10


@pytest.mark.real_data
def test_the_committed_split_is_the_seeded_one_of_the_real_tiles(data_root, repository, tmp_path):
    pairs = pairs_by_pattern(
        data_root / "monuseg" / "train512", images=monuseg.IMAGE_PATTERNS, masks=monuseg.MASK_PATTERNS
    )
    assert (len(pairs.cases), pairs.misfits) == (30, ())
    assert repository / "bundles" / "monuseg" / "configs" / "split_20_4_6.json" == monuseg.TABLE_SPLIT
    split = three_way((files.case for files in pairs.cases), training=20, validation=4, test=6, seed=0)
    write_split(tmp_path / "split.json", split, name="monuseg_20_4_6", seed=0)
    assert (tmp_path / "split.json").read_bytes() == monuseg.TABLE_SPLIT.read_bytes()
