from __future__ import annotations

import pytest

from data_prep.pairing import pairs_by_name, pairs_by_pattern
from medsegdiff.errors import SpecError


def _touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _found(root, pairs):
    """Cases as a dictionary of names to paths below the root, and misfits of names to reasons."""
    cases = {
        files.case: (
            files.image.relative_to(root).as_posix(),
            *(path.relative_to(root).as_posix() for path in files.masks),
        )
        for files in pairs.cases
    }
    return cases, {misfit.case: misfit.reason for misfit in pairs.misfits}


@pytest.mark.parametrize(
    ("image", "mask", "case"),
    [
        ("images/a_01.png", "masks/a_01.png", "a_01"),
        ("imagesTr/a_01.png", "labelsTr/a_01.tif", "a_01"),
        ("images/img_00193.png", "masks/img_00193.png", "img_00193"),
        ("images/a 01.jpg", "masks/a 01_mask.png", "a 01"),
        ("a_01.png", "a_01_mask.png", "a_01"),
        ("MCUCXR_0001_0_gray.png", "MCUCXR_0001_0_gt_mask.png", "MCUCXR_0001_0"),
        ("building_12.tif", "building_mask_12.tif", "building_12"),
        ("image_test/a.png", "mask_test/a.png", "a"),
        ("test/images/a.png", "test/masks/a.png", "a"),
        ("Tissue Images/a.png", "Ground Truth/a.png", "a"),
        ("pictures/a.v2.PNG", "GT/a.v2.png", "a.v2"),
        ("case_07/image.png", "case_07/mask.png", "case_07"),
        ("set/images/target_1.png", "set/masks/target_1.png", "target_1"),
    ],
)
def test_names_say_what_belongs_together(tmp_path, image, mask, case):
    _touch(tmp_path, image, mask)
    assert _found(tmp_path, pairs_by_name(tmp_path)) == ({case: (image, mask)}, {})


def test_the_nearest_folder_decides_before_the_name(tmp_path):
    _touch(tmp_path, "masks/images/label_1.png", "masks/masks/label_1.png")
    assert _found(tmp_path, pairs_by_name(tmp_path))[0] == {
        "label_1": ("masks/images/label_1.png", "masks/masks/label_1.png")
    }


def test_folders_name_the_parts_and_keep_equal_names_apart(tmp_path):
    for part in ("train", "val", "test"):
        _touch(tmp_path, f"image_{part}/1.png", f"mask_{part}/1.png")
    pairs = pairs_by_name(tmp_path)
    assert {files.case: files.part for files in pairs.cases} == {
        "test_1": "test",
        "train_1": "training",
        "val_1": "validation",
    }
    assert all(files.image.parent.name[6:] == files.masks[0].parent.name[5:] for files in pairs.cases)


def test_a_folder_without_a_part_is_in_none(tmp_path):
    _touch(tmp_path, "contest/images/a.png", "contest/masks/a.png")
    assert pairs_by_name(tmp_path).cases[0].part is None


def test_what_is_no_pair_is_said(tmp_path):
    _touch(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/c.png")
    _touch(tmp_path, "images/d.png", "images/d.jpg", "masks/d.png", "images/e.png", "masks/e.png", "masks/e_seg.png")
    cases, misfits = _found(tmp_path, pairs_by_name(tmp_path))
    assert list(cases) == ["a"]
    assert misfits == {
        "b": "images/b.png: an image without a mask",
        "c": "masks/c.png: a mask without an image",
        "d": "images/d.jpg, images/d.png, masks/d.png: several files of one case",
        "e": "images/e.png, masks/e.png, masks/e_seg.png: several files of one case",
    }


def test_what_would_have_one_name_is_no_case(tmp_path):
    _touch(tmp_path, "images/a_1.png", "masks/a_1.png", "a/images/1.png", "a/masks/1.png", "b/images/1.png")
    _touch(tmp_path, "b/masks/1.png")
    cases, misfits = _found(tmp_path, pairs_by_name(tmp_path))
    assert list(cases) == ["b_1"]
    assert set(misfits) == {"a_1"}


def test_hidden_files_and_other_formats_are_no_data(tmp_path):
    _touch(tmp_path, "images/a.png", "masks/a.png", "images/._a.png", ".git/images/b.png", "__MACOSX/images/c.png")
    _touch(tmp_path, "images/Thumbs.db", "readme.txt", "masks/a.xml", "images/d.nii.gz")
    assert _found(tmp_path, pairs_by_name(tmp_path)) == ({"a": ("images/a.png", "masks/a.png")}, {})


def test_links_to_folders_are_followed(tmp_path):
    _touch(tmp_path, "far/images/a.png", "far/masks/a.png")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "test").symlink_to(tmp_path / "far")
    assert [files.part for files in pairs_by_name(tmp_path / "near").cases] == ["test"]


def test_files_can_be_left_out_by_their_name(tmp_path):
    _touch(tmp_path, "b_1.tif", "b_mask_1.tif", "b_mask_all_1.tif")
    pairs = pairs_by_name(tmp_path, leave_out="mask_all")
    assert _found(tmp_path, pairs) == ({"b_1": ("b_1.tif", "b_mask_1.tif")}, {})


def test_patterns_say_what_belongs_together_and_what_else_there_is_is_ignored(tmp_path):
    _touch(tmp_path, "x/CXR_png/a_1.png", "x/mask/a_1_mask.png", "x/CXR_png/b.PNG", "other/c.png", "x/mask/d_mask.png")
    pairs = pairs_by_pattern(tmp_path, images=["**/cxr_png/{case}.*"], masks=["**/mask/{case}_mask.png"])
    assert _found(tmp_path, pairs) == (
        {"a_1": ("x/CXR_png/a_1.png", "x/mask/a_1_mask.png")},
        {"b": "x/CXR_png/b.PNG: an image without a mask", "d": "x/mask/d_mask.png: a mask without an image"},
    )


def test_the_first_pattern_that_has_masks_is_preferred_and_may_have_several(tmp_path):
    _touch(tmp_path, "a.tif", "b.tif", "left/a.png", "right/a.png", "masks/a.png", "masks/b.png")
    pairs = pairs_by_pattern(tmp_path, images=["{case}.tif"], masks=["*t/{case}.png", "masks/{case}.png"])
    assert _found(tmp_path, pairs)[0] == {
        "a": ("a.tif", "left/a.png", "right/a.png"),
        "b": ("b.tif", "masks/b.png"),
    }


def test_the_case_may_be_a_folder_and_stand_twice(tmp_path):
    _touch(tmp_path, "s/a1/images/a1.png", "s/a1/masks/x.png", "s/a1/masks/y.png", "s/a2/images/zz.png")
    pairs = pairs_by_pattern(tmp_path, images=["**/{case}/images/{case}.png"], masks=["**/{case}/masks/?.png"])
    assert _found(tmp_path, pairs) == (
        {"a1": ("s/a1/images/a1.png", "s/a1/masks/x.png", "s/a1/masks/y.png")},
        {},
    )


def test_two_images_of_one_case_are_refused(tmp_path):
    _touch(tmp_path, "a.png", "sub/a.png", "masks/a.png")
    pairs = pairs_by_pattern(tmp_path, images=["{case}.png", "sub/{case}.png"], masks=["masks/{case}.png"])
    assert _found(tmp_path, pairs) == ({}, {"a": "a.png, sub/a.png, masks/a.png: several files of one case"})


def test_a_pattern_needs_a_case(tmp_path):
    with pytest.raises(SpecError, match=r"got the pattern 'images/\*\.png'; allowed are patterns that hold {case}"):
        pairs_by_pattern(tmp_path, images=["images/*.png"], masks=["masks/{case}.png"])
