"""The fingerprint of a data set, and each inconsistency made on purpose."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medsegdiff.data.fingerprint import fingerprint_dataset
from medsegdiff.data.fingerprint_tables import fingerprint_tables, write_fingerprint
from medsegdiff.data.phantoms import PhantomSpec, write_phantoms
from medsegdiff.data.splits import write_folds, write_split
from medsegdiff.errors import DataError, SpecError
from tests.data.labelled_folder import (
    NAMES,
    SHAPE,
    change_image,
    change_label,
    describe,
    make_image,
    make_label,
    only,
    remarks_of,
    save,
)


def test_a_sound_data_set_has_no_remarks(folder):
    fingerprint = fingerprint_dataset(folder)
    assert fingerprint.remarks == ()
    fingerprint.require_sound()
    assert sum(map(len, fingerprint.parts.values())) == len(NAMES)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_phantoms_are_sound(tmp_path, dims, channels):
    spec = PhantomSpec(shape=(24,) * dims, spacing=(1.0,) * dims, num_classes=3, in_channels=channels)
    folder = write_phantoms(spec, tmp_path / "phantoms", cases=6)
    fingerprint = fingerprint_dataset(folder)
    assert remarks_of(fingerprint) == []
    assert (fingerprint.expected.spatial_dims, fingerprint.expected.channels) == (dims, channels)
    assert {case.image.channels for case in fingerprint.cases} == {channels}


def test_measures_are_those_of_the_arrays(folder):
    change_image(folder, lambda image: image, affine=np.diag([-2.0, 1.0, 1.5, 1.0]))
    change_label(folder, lambda label: label, affine=np.diag([-2.0, 1.0, 1.5, 1.0]))
    case = fingerprint_dataset(folder).cases[1]
    assert (case.case, case.image.shape, case.image.spacing, case.orientation) == (NAMES[1], SHAPE, (2, 1, 1.5), "LAS")
    np.testing.assert_allclose(case.percentiles[0], np.percentile(make_image(1), (0, 0.5, 5, 50, 95, 99.5, 100)))
    assert {value: vars(facts) for value, facts in case.classes.items()} == {
        1: {"voxels": 8, "volume": 24.0, "components": 1, "at_border": False},
        2: {"voxels": 3, "volume": 9.0, "components": 2, "at_border": False},
    }
    inside = make_image(1)[make_label() > 0]
    assert np.isin(case.foreground, inside).all() and len(np.unique(case.foreground)) == inside.size


def test_tables_sum_up_all_cases(folder):
    tables = fingerprint_tables(fingerprint_dataset(folder))
    assert list(tables) == ["parts", "grids", "storage", "intensities", "classes"]
    sizes = tables["grids"].set_index("grid")
    assert [tuple(sizes.loc[f"size {axis}"]) for axis in "xyz"] == [(side,) * 3 for side in SHAPE]
    classes = tables["classes"].set_index("class")
    assert classes.loc["cube", "voxels"] == 48
    assert classes.loc["cube", "% of all"] == pytest.approx(100 * 8 / np.prod(SHAPE))
    assert classes.loc["dots", "parts, max"] == 2
    everything = tables["intensities"].iloc[0]
    voxels = np.stack([make_image(index) for index in range(6)])
    assert everything["channel"] == "MR"
    assert (everything["min"], everything["max"]) == (voxels.min(), voxels.max())
    assert everything["50 %"] == pytest.approx(np.median(voxels), abs=0.5)


def test_the_json_holds_tables_remarks_and_cases(folder, tmp_path):
    change_image(folder, lambda image: image * np.nan)
    fingerprint = fingerprint_dataset(folder)
    write_fingerprint(fingerprint, tmp_path / "out" / "fingerprint.json")
    text = (tmp_path / "out" / "fingerprint.json").read_text()
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert content["class_names"] == ["background", "cube", "dots"]
    assert [remark["case"] for remark in content["remarks"]] == [NAMES[1]]
    assert [case["case"] for case in content["cases"]] == NAMES
    assert {case["part"] for case in content["cases"]} == {"training", "validation", "test"}
    assert content["cases"][1]["intensities"] == [] and content["cases"][0]["intensities"][0]["50 %"] > 90
    assert content["cases"][0]["classes"]["1"]["voxels"] == 8
    assert content["classes"][0]["cases"] == 6


def test_a_case_is_the_same_whichever_process_measures_it(folder):
    alone, together = fingerprint_dataset(folder), fingerprint_dataset(folder, workers=2)
    assert [case.content for case in alone.cases] == [case.content for case in together.cases]
    for first, second in zip(alone.cases, together.cases, strict=True):
        np.testing.assert_array_equal(first.voxels, second.voxels)
        assert first.classes == second.classes


OTHER_LABEL = make_label()[:, :, :-1]
SPOILT_LABELS = {
    "shape": (lambda label: OTHER_LABEL, None, "the shapes differ"),
    "spacing": (lambda label: label, np.diag([1.0, 1.0, 1.2, 1.0]), "the grids are 1.4 mm apart"),
    "unknown value": (lambda label: np.where(label == 2, 7, label).astype(np.uint8), None, "got the label values 7 in"),
    "fraction": (lambda label: label * np.float32(0.5), None, "got the label values 0.5 in 8 voxels"),
    "NaN": (lambda label: np.where(label == 2, np.nan, label).astype(np.float32), None, "3 of 960 voxels that are NaN"),
    "empty": (lambda label: label * 0, None, "a label without foreground"),
    "channels": (lambda label: np.stack([label, label], -1), None, "allowed is a 3-D image with 1 channel"),
}


@pytest.mark.parametrize("kind", SPOILT_LABELS)
def test_a_spoilt_label_is_an_error_of_its_case(folder, kind):
    change, affine, text = SPOILT_LABELS[kind]
    change_label(folder, change, affine=affine)
    fingerprint = fingerprint_dataset(folder)
    only(fingerprint, "error", NAMES[1], f"labelsTr/{NAMES[1]}.nii.gz: got")
    assert text in fingerprint.remarks[0].text
    assert str(folder) not in fingerprint.remarks[0].text


def _with_hole(image, value):
    image[0, 0, :3] = value
    return image


SPOILT_IMAGES = {
    "NaN": (lambda image: _with_hole(image, np.nan), "got 3 of 960 voxels that are NaN"),
    "infinite": (lambda image: _with_hole(image, np.inf), "got 3 of 960 voxels that are NaN"),
    "constant": (lambda image: image * 0 + 7, "got the value 7 in every voxel"),
    "channels": (lambda image: np.stack([image, image], -1), "(2 channels); allowed is a 3-D image with 1 channel"),
    "axes": (lambda image: image[0], "allowed is a 3-D image"),
}


@pytest.mark.parametrize("kind", SPOILT_IMAGES)
def test_a_spoilt_image_is_an_error_of_its_case(folder, kind):
    change, text = SPOILT_IMAGES[kind]
    change_image(folder, change)
    fingerprint = fingerprint_dataset(folder)
    only(fingerprint, "error", NAMES[1], text)
    with pytest.raises(DataError, match=f"got 1 error, the first {NAMES[1]}: imagesTr"):
        fingerprint.require_sound()


def test_everything_wrong_with_a_case_is_told_at_once(folder):
    change_image(folder, lambda image: _with_hole(image, np.nan))
    change_label(folder, lambda label: np.full((4, 4, 4), 9, np.uint8))
    texts = [text for _, case, text in remarks_of(fingerprint_dataset(folder)) if case == NAMES[1]]
    assert len(texts) == 3
    for part in ("voxels that are NaN", "the shapes differ", "got the label values 9"):
        assert any(part in text for text in texts)


def test_a_file_that_cannot_be_read_leaves_the_others(folder):
    (folder / "imagesTr" / f"{NAMES[0]}.nii.gz").write_bytes(b"nothing")
    fingerprint = fingerprint_dataset(folder)
    only(fingerprint, "error", NAMES[0], "cannot be read")
    assert fingerprint.cases[0].classes[1].voxels == 8
    assert fingerprint.cases[1].image is not None


def test_listed_files_that_are_missing_are_named(folder):
    (folder / "imagesTr" / f"{NAMES[2]}.nii.gz").unlink()
    only(fingerprint_dataset(folder), "error", NAMES[2], f"imagesTr/{NAMES[2]}.nii.gz: listed in dataset.json and mis")


def test_missing_images_without_label_are_warned_of(folder):
    describe(folder, test=["./imagesTs/new.nii.gz"])
    only(fingerprint_dataset(folder), "warning", "new", "listed as test in dataset.json and missing")


@pytest.mark.parametrize("place", ["imagesTr", "labelsTr", "imagesTs"])
def test_files_that_are_not_listed_are_named(folder, place):
    save(folder / place / "stranger.nii.gz", make_image(9))
    (folder / "imagesTr" / "._hidden.nii.gz").touch()
    only(fingerprint_dataset(folder), "warning", "stranger", f"{place}/stranger.nii.gz: not listed in dataset.json")


def test_files_without_partner_are_named_where_nothing_is_listed(folder):
    (folder / "dataset.json").unlink()
    save(folder / "imagesTr" / "lonely.nii.gz", make_image(9))
    fingerprint = fingerprint_dataset(folder)
    only(fingerprint, "warning", "lonely", "imagesTr/lonely.nii.gz: no file of this name in labelsTr")
    assert (fingerprint.expected.spatial_dims, set(fingerprint.cases[0].classes)) == (3, {1, 2})


def test_a_case_in_two_parts_is_an_error(folder, tmp_path):
    split = tmp_path / "split.json"
    content = {"training": NAMES[:4], "validation": NAMES[3:5], "test": NAMES[5:]}
    split.write_text(json.dumps(content))
    only(fingerprint_dataset(folder, split_file=split), "error", "", "got 1 name (case_3) more than once")


def test_a_split_that_knows_other_cases_is_warned_of(folder):
    write_split(
        folder / "splits" / "s.json", {"training": NAMES[:3], "validation": NAMES[3:4], "test": ["gone", NAMES[5]]}
    )
    found = remarks_of(fingerprint_dataset(folder, split_file=folder / "splits" / "s.json"))
    assert [(severity, case) for severity, case, _ in found] == [("warning", "")] * 2
    assert "1 of its 6 cases are not in the data" in found[0][2]
    assert "1 cases of the data are in no part of it" in found[1][2]


def test_folds_need_the_number_of_one(folder, tmp_path):
    write_folds(tmp_path / "folds.json", [NAMES[:3], NAMES[3:]])
    assert fingerprint_dataset(folder, split_file=tmp_path / "folds.json", fold=1).parts["test"] == NAMES[3:]
    with pytest.raises(SpecError, match="2 folds and no fold to test on"):
        fingerprint_dataset(folder, split_file=tmp_path / "folds.json")


def test_a_bundle_says_what_cases_must_be_like(folder, repository):
    fingerprint = fingerprint_dataset(folder, bundle=repository / "bundles" / "brats")
    errors = remarks_of(fingerprint, "error")
    assert sum("allowed is a 3-D image with 4 channels" in text for _, _, text in errors) == len(NAMES)
    assert sum("got the label values 2 in 3 voxels" in text for _, _, text in errors) == len(NAMES)
    [warning] = [text for _, _, text in remarks_of(fingerprint, "warning") if "the bundle's classes are" in text]
    assert "background, whole tumor, those of dataset.json background, cube, dots" in warning


@pytest.mark.parametrize(("second", "warned"), [("Posterior", False), ("Body", True)])
def test_classes_are_the_bundles_in_whatever_case(folder, repository, second, warned):
    describe(folder, labels={"0": "background", "1": "Anterior", "2": second})
    fingerprint = fingerprint_dataset(folder, bundle=repository / "bundles" / "hippocampus")
    assert any("the bundle's classes are" in text for _, _, text in remarks_of(fingerprint, "warning")) == warned


def test_a_bundle_brings_its_split(folder, repository):
    fingerprint = fingerprint_dataset(folder, bundle=repository / "bundles" / "hippocampus")
    texts = [text for _, _, text in remarks_of(fingerprint, "warning")]
    assert any("split_144_16_40.json: none of its 200 cases is in the data" in text for text in texts)


def test_pictures_are_measured_in_pixels(tmp_path):
    for index in range(5):
        for place, array in (("images", make_image(index, (20, 30))), ("labels", np.zeros((20, 30)))):
            array = array.astype(np.uint8)
            if place == "labels":
                array[5:9, 5:10] = 1
            suffix = ".tif" if place == "images" else ".png"
            (tmp_path / place).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / place / f"p{index}{suffix}")
    fingerprint = fingerprint_dataset(tmp_path)
    assert fingerprint.remarks == ()
    assert fingerprint.cases[0].image.shape == (30, 20)
    tables = fingerprint_tables(fingerprint)
    assert list(tables["grids"]["grid"]) == ["size x", "size y"]
    assert tables["classes"].loc[0, "median pixels"] == 20
    assert list(tables["storage"].loc[0]) == [".tif", "uint8", "1", "-", 5]
    shutil.copy(tmp_path / "images" / "p0.tif", tmp_path / "images" / "p1.tif")
    only(fingerprint_dataset(tmp_path, seed=1), "error", "p1", "the same image as p0")


def test_labels_are_counted_from_0(folder):
    describe(folder, labels={"0": "background", "2": "dots"})
    with pytest.raises(DataError, match=r"got labels for 0, 2, without '1'; allowed are names for"):
        fingerprint_dataset(folder)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="got no pair of image and label"):
        fingerprint_dataset(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        fingerprint_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match=r"train\.json does not exist; give the folder of a bundle"):
        fingerprint_dataset(tmp_path, bundle=tmp_path)


@pytest.mark.real_data
def test_real_volumes_are_sound(data_root, tmp_path, repository):
    source = data_root / "hippocampus"
    names = sorted(path.name for path in (source / "labelsTr").iterdir())[:12]
    for place in ("imagesTr", "labelsTr"):
        (tmp_path / place).mkdir()
        for name in names:
            (tmp_path / place / name).symlink_to(source / place / name)
    fingerprint = fingerprint_dataset(tmp_path, bundle=repository / "bundles" / "hippocampus")
    assert fingerprint.count("error") == 0
    classes = fingerprint_tables(fingerprint)["classes"]
    assert list(classes["cases"]) == [12, 12]
    # A hippocampus has about 3 cm³, half of it in either part.
    assert classes["median mm³"].between(1000, 2500).all()
