"""What does not fit between the cases of a data set, each inconsistency made on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from medsegdiff.data.fingerprint import fingerprint_dataset
from medsegdiff.data.splits import write_split
from tests.data.labelled_folder import (
    NAMES,
    change_image,
    change_label,
    describe,
    make_image,
    make_label,
    only,
    remarks_of,
    save,
)


def test_values_with_gaps_are_an_error_where_classes_are_unknown(folder):
    (folder / "dataset.json").unlink()
    for name in NAMES:
        change_label(folder, lambda label: (label > 0).astype(np.uint8) * 255, name=name)
    only(fingerprint_dataset(folder), "error", "", "got the label values 255; allowed are 1, 2, 3")


def test_another_number_of_channels_than_the_others_is_an_error_where_it_is_unknown(folder):
    (folder / "dataset.json").unlink()
    change_image(folder, lambda image: np.stack([image, image + 1], -1))
    only(fingerprint_dataset(folder), "error", NAMES[1], "got 2 channels where 5 of 6 cases have 1")


def test_a_class_that_no_case_has_is_warned_of(folder):
    for name in NAMES:
        change_label(folder, lambda label: np.minimum(label, 1), name=name)
    only(fingerprint_dataset(folder), "warning", "", "no case has the class dots (2)")


def test_a_class_that_training_never_sees_is_warned_of(folder, tmp_path):
    for name in NAMES[1:]:
        change_label(folder, lambda label: np.minimum(label, 1), name=name)
    split = tmp_path / "split.json"
    write_split(split, {"training": NAMES[1:4], "validation": NAMES[4:5], "test": [NAMES[0], NAMES[5]]})
    fingerprint = fingerprint_dataset(folder, split_file=split)
    only(fingerprint, "warning", "", "no case of the training part has the class dots (2), which others have")


@pytest.mark.parametrize(("second", "severity"), [(NAMES[1], "warning"), (NAMES[5], "error")])
def test_repeated_images_are_errors_across_parts(folder, tmp_path, second, severity):
    split = tmp_path / "split.json"
    write_split(split, {"training": NAMES[:4], "validation": NAMES[4:5], "test": NAMES[5:]})
    # Stored in another type and format: the numbers count.
    whole = np.rint(make_image(0))
    change_image(folder, lambda image: whole.astype(np.int16), name=NAMES[0])
    change_image(folder, lambda image: whole.astype(np.float64), name=second)
    text = f"the same image as {NAMES[0]}" + (" in training" if severity == "error" else "")
    only(fingerprint_dataset(folder, split_file=split), severity, second, text)


def test_outliers_are_warned_of(folder):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for change in (change_image, change_label):
        change(folder, lambda array: array, name=NAMES[0], affine=affine)
    save(folder / "imagesTr" / f"{NAMES[2]}.nii.gz", make_image(2, (40, 10, 8)))
    save(folder / "labelsTr" / f"{NAMES[2]}.nii.gz", make_label((40, 10, 8)))
    change_image(folder, lambda image: image * 1000, name=NAMES[4])
    change_image(folder, lambda image: image + 1024, name=NAMES[5])
    found = {case: text for severity, case, text in remarks_of(fingerprint_dataset(folder)) if severity == "warning"}
    assert found.keys() == {NAMES[0], NAMES[2], NAMES[4], NAMES[5]}
    assert found[NAMES[0]] == "unusual spacing: 1 × 1 × 3 mm, where the median is 1 × 1 × 1"
    assert found[NAMES[2]] == "unusual size: 40 × 10 × 8 voxels, where the median is 12 × 10 × 8"
    for name in NAMES[4:]:
        assert found[name].startswith("unusual range of intensities in channel 0: ")


def test_intensities_of_another_scale_are_no_outliers(folder):
    """In MR the scale is arbitrary."""
    for name, scale in zip(NAMES, (1, 2, 0.5, 3, 1.2, 0.8), strict=True):
        change_image(folder, lambda image, by=scale: image * by, name=name)
    assert fingerprint_dataset(folder).remarks == ()


def test_a_group_of_outliers_is_told_once(tmp_path):
    names = [f"case_{index:02}" for index in range(12)]
    for index, name in enumerate(names):
        save(tmp_path / "imagesTr" / f"{name}.nii.gz", make_image(index) * (1000 if index % 3 == 0 else 1))
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", make_label())
    only(fingerprint_dataset(tmp_path), "warning", "", "4 of 12 cases have an unusual range of intensities")


def test_a_sheared_grid_is_warned_of_and_a_turned_one_is_not(folder):
    angle = np.radians(20)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    for change in (change_image, change_label):
        change(folder, lambda array: array, name=NAMES[0], affine=turned)
        change(folder, lambda array: array, name=NAMES[3], affine=sheared)
    only(fingerprint_dataset(folder), "warning", NAMES[3], "got axes at 78.7° to each other")


def test_a_constant_channel_is_warned_of(folder):
    describe(folder, modality={"0": "T1", "1": "T2"})
    for index, name in enumerate(NAMES):
        change_image(folder, lambda image, k=index: np.stack([image, image * (k != 3)], -1), name=name)
    found = [text for _, case, text in remarks_of(fingerprint_dataset(folder)) if case == NAMES[3]]
    assert "channel 1 of 2 has the value 0 everywhere" in found


def test_channels_may_be_files_of_their_own(folder):
    entries = []
    for index, name in enumerate(NAMES):
        save(folder / "imagesTr" / f"{name}_t2.nii.gz", make_image(10 + index)[:, :, : 7 if index == 2 else 8])
        images = [f"imagesTr/{name}.nii.gz", f"imagesTr/{name}_t2.nii.gz"]
        entries.append({"image": images[: 1 if index == 4 else 2], "label": f"labelsTr/{name}.nii.gz"})
    (folder / "imagesTr" / f"{NAMES[4]}_t2.nii.gz").unlink()
    describe(folder, modality={"0": "T1", "1": "T2"}, training=entries)
    fingerprint = fingerprint_dataset(folder)
    assert [(severity, case) for severity, case, _ in remarks_of(fingerprint)] == [
        ("error", NAMES[2]),
        ("error", NAMES[4]),
    ]
    assert "the shapes differ" in fingerprint.remarks[0].text
    assert "(1 channel); allowed is a 3-D image with 2 channels" in fingerprint.remarks[1].text
    assert len(fingerprint.cases[0].percentiles) == 2


@pytest.mark.parametrize("side", [0, -1])
@pytest.mark.parametrize(("cropped", "remarks"), [(1, [NAMES[0]]), (4, [""])])
def test_classes_at_the_border_are_a_note_of_the_few_or_of_all(folder, cropped, remarks, side):
    def move(label):
        label[side, 2:4, 2:4] = 1
        return label

    for name in NAMES[:cropped]:
        change_label(folder, move, name=name)
    fingerprint = fingerprint_dataset(folder)
    assert [(severity, case) for severity, case, _ in remarks_of(fingerprint, "note")] == [
        ("note", case) for case in remarks
    ]
    assert "cube reaches the border of the image" in fingerprint.remarks[0].text
    fingerprint.require_sound()
