from __future__ import annotations

import os
import re
import shutil

import nibabel
import numpy as np
import pytest

from data_prep.drafts import Unfinished
from data_prep.volumes import VolumeCase, convert_case
from medsegdiff.data import integrity

NAMES = ("t1", "t2")
VALUES = {0: 0, 1: 2, 2: 1, 4: 3}


@pytest.fixture
def output(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "out" / folder).mkdir(parents=True)
    return tmp_path / "out"


@pytest.fixture
def case(tmp_path, save_volume, label_volume):
    """Two modalities and a label with published values."""
    root = tmp_path / "source"
    return VolumeCase(
        name="a",
        images={name: save_volume(root / f"a_{name}.nii.gz", seed=seed) for seed, name in enumerate(NAMES)},
        label=save_volume(root / "a_seg.nii", label_volume(0, 1, 2, 4)),
        values=VALUES,
    )


def _convert(case, output, **options):
    return convert_case(case, folder=output, num_classes=4, **options)


def _files(output):
    return sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if not path.is_dir())


def test_files_are_named_after_case_and_modality(case, output):
    assert _convert(case, output) is None
    assert _files(output) == ["imagesTr/a_t1.nii.gz", "imagesTr/a_t2.nii.gz", "labelsTr/a.nii.gz"] == case.targets
    assert case.item == {
        "image": ["./imagesTr/a_t1.nii.gz", "./imagesTr/a_t2.nii.gz"],
        "label": "./labelsTr/a.nii.gz",
    }
    assert (output / "imagesTr" / "a_t2.nii.gz").read_bytes() == case.images["t2"].read_bytes()


def test_values_become_class_numbers_on_the_grid_of_the_file(case, output, label_volume):
    _convert(case, output)
    image = nibabel.load(output / "labelsTr" / "a.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(image.dataobj, label_volume(0, 2, 1, 3))
    source = nibabel.load(case.label)
    np.testing.assert_array_equal(image.affine, source.affine)
    for field in ("sform_code", "qform_code", "srow_x", "quatern_b", "pixdim"):
        np.testing.assert_array_equal(image.header[field], source.header[field])


def test_values_stored_with_a_scale_are_the_whole_numbers_next_to_them(case, output, save_volume, label_volume):
    save_volume(case.label, label_volume(0, 0.99999997, 2, 4.0000001, dtype=np.float64))
    assert _convert(case, output) is None
    image = nibabel.load(output / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(image.dataobj, label_volume(0, 2, 1, 3))


def test_a_label_of_class_numbers_is_kept_as_it_is(tmp_path, output, save_volume, label_volume):
    image = save_volume(tmp_path / "a_img.nii")
    label = save_volume(tmp_path / "a_mask.nii", label_volume(0, 3, dtype=np.int16))
    case = VolumeCase(name="a", images={"T2": image}, label=label, notes={"institution": "3"})
    assert _convert(case, output) is None
    assert _files(output) == ["imagesTr/a.nii", "labelsTr/a.nii"]
    assert (output / "labelsTr" / "a.nii").read_bytes() == label.read_bytes()
    assert case.item == {"image": "./imagesTr/a.nii", "label": "./labelsTr/a.nii", "institution": "3"}


def test_links_lead_to_the_source_and_a_mapped_label_is_written(case, output):
    for _ in range(2):  # a case that is converted again takes the place of what is there
        assert _convert(case, output, link=True) is None
    assert (output / "imagesTr" / "a_t1.nii.gz").readlink() == case.images["t1"]
    assert not (output / "labelsTr" / "a.nii.gz").is_symlink()


@pytest.mark.parametrize("hard_links", [True, False])
def test_what_is_extracted_is_shared_where_it_can_be(case, output, tmp_path, monkeypatch, hard_links):
    def fail(*_):
        raise OSError(1, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", fail)
    for _ in range(2):
        assert _convert(case, output, scratch=tmp_path / "source") is None
    target = output / "imagesTr" / "a_t1.nii.gz"
    assert target.samefile(case.images["t1"]) == hard_links
    assert target.read_bytes() == case.images["t1"].read_bytes()
    assert not target.is_symlink()


def test_each_file_is_read_once(case, output, monkeypatch):
    read = []
    original = integrity.read_image
    monkeypatch.setattr(integrity, "read_image", lambda path: (read.append(path), original(path))[1])
    _convert(case, output)
    assert sorted(read) == sorted([*case.images.values(), case.label])


def _other_grid(case, save_volume, label_volume):
    moved = nibabel.load(case.images["t1"]).affine + np.eye(4, k=3) * 2
    save_volume(case.images["t2"], affine=moved)


def _other_shape(case, save_volume, label_volume):
    save_volume(case.label, np.arange(40).reshape(5, 4, 2).astype(np.uint8) % 2)


def _not_a_number(case, save_volume, label_volume):
    array = nibabel.load(case.images["t2"]).get_fdata(dtype=np.float32)
    array[0, 0, 0] = np.nan
    save_volume(case.images["t2"], array)


def _label_not_a_number(case, save_volume, label_volume):
    save_volume(case.label, label_volume(0, 1, np.nan, dtype=np.float32))


def _other_value(case, save_volume, label_volume):
    save_volume(case.label, label_volume(0, 1, 3, 7))


def _negative_value(case, save_volume, label_volume):
    save_volume(case.label, label_volume(0, 1, -1, dtype=np.int16))


def _between_values(case, save_volume, label_volume):
    save_volume(case.label, label_volume(0, 1, 1.5, dtype=np.float32))


def _empty(case, save_volume, label_volume):
    save_volume(case.label, label_volume(0))


def _truncated(case, save_volume, label_volume):
    case.images["t1"].write_bytes(case.images["t1"].read_bytes()[:100])


def _absent(case, save_volume, label_volume):
    case.images["t2"].unlink()


def _channels(case, save_volume, label_volume):
    save_volume(case.images["t2"], np.random.default_rng(0).random((5, 4, 3, 2), np.float32))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            _other_grid,
            r"t2: \S*a_t2.nii.gz: got a grid of shape \(5, 4, 3\) and affine .* where \S*a_t1.nii.gz has \(5",
        ),
        (_other_shape, r"\S*a_seg.nii: got a grid of shape \(5, 4, 2\) .* where \S*a_t1.nii.gz has \(5, 4, 3\)"),
        (_not_a_number, r"t2: \S*a_t2.nii.gz: got 1 of 60 voxels that are NaN"),
        (_label_not_a_number, r"\S*a_seg.nii: got 20 of 60 voxels that are NaN"),
        (_other_value, r"\S*a_seg.nii: got the label values 3, 7 in 30 voxels; allowed are 0, 1, 2, 4"),
        (_negative_value, r"\S*a_seg.nii: got the label values -1 in 20 voxels"),
        (_between_values, r"\S*a_seg.nii: got the label values 1.5 in 20 voxels"),
        (_empty, r"\S*a_seg.nii: got the value 0 in every voxel"),
        (_truncated, r"t1: \S*a_t1.nii.gz: cannot be read"),
        (_absent, r"t2: \S*a_t2.nii.gz: there is no such file"),
        (_channels, r"t2: \S*a_t2.nii.gz: got 4-D data"),
    ],
)
def test_a_misfit_is_one_line_that_says_why_and_leaves_no_file(case, output, save_volume, label_volume, spoil, reason):
    spoil(case, save_volume, label_volume)
    got = _convert(case, output)
    assert re.match(reason, got)
    assert "\n" not in got
    assert _files(output) == []


def test_a_label_whose_values_are_all_background_is_a_misfit(case, output):
    case = VolumeCase(name="a", images=case.images, label=case.label, values=dict.fromkeys(VALUES, 0))
    assert "a_seg.nii: got a label without foreground" in _convert(case, output)


def test_class_numbers_are_checked_too(case, output):
    case = VolumeCase(name="a", images={"t1": case.images["t1"]}, label=case.label)
    assert "a_seg.nii: got the label values 4 in 15 voxels" in _convert(case, output)


@pytest.mark.parametrize("kind", ["copy", "label"])
def test_a_disk_that_fills_up_is_no_misfit(case, output, monkeypatch, kind):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((shutil, "copyfile", fail) if kind == "copy" else (nibabel.Nifti1Image, "to_stream", fail)))
    with pytest.raises(Unfinished, match=r"No space left on device.*; free space .* the same command goes on"):
        _convert(case, output)
    assert _files(output) == ([] if kind == "copy" else case.image_targets)
