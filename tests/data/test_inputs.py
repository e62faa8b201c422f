from __future__ import annotations

from pathlib import Path

import pytest

from medsegdiff.data.inputs import find_images, image_datalist, require_images, unique_names
from medsegdiff.errors import DataError


def _touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def _dicom(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM")


def test_a_file_stands_for_itself(tmp_path):
    [path] = _touch(tmp_path, "a.nii.gz")
    assert find_images(path) == [path]


def test_a_folder_stands_for_its_images_in_order(tmp_path):
    images = _touch(tmp_path, "a.mha", "b.nii.gz", "c.png")
    _touch(tmp_path, "._a.nii.gz", ".hidden.png", "notes.txt", "sub/d.nii.gz")
    assert find_images(tmp_path) == images


@pytest.mark.parametrize("name", ["IM0001", "1.dcm"])
def test_a_folder_of_dicom_files_is_one_case(tmp_path, name):
    _dicom(tmp_path / name)
    _touch(tmp_path, "LICENSE")
    assert find_images(tmp_path) == [tmp_path]


def test_of_a_decathlon_folder_the_unlabelled_images_come_first(tmp_path):
    [labelled] = _touch(tmp_path, "imagesTr/a.nii.gz")
    assert find_images(tmp_path) == [labelled]
    [unlabelled] = _touch(tmp_path, "imagesTs/b.nii.gz")
    assert find_images(tmp_path) == [unlabelled]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such file or folder"):
        find_images(tmp_path / "nowhere")


def test_a_folder_without_images_is_refused(tmp_path):
    _touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match=r"got a folder without images; allowed are \.nii\.gz, .*DICOM series"):
        find_images(tmp_path)


def test_a_folder_of_both_kinds_is_refused(tmp_path):
    _dicom(tmp_path / "1.dcm")
    _touch(tmp_path, "a.nii.gz")
    with pytest.raises(DataError, match="both DICOM files and 1 other images; allowed is one or the other"):
        find_images(tmp_path)


def test_the_data_list_is_empty_only_where_no_folder_is_given(tmp_path):
    assert image_datalist(None) == []
    [path] = _touch(tmp_path, "a.nii.gz")
    assert image_datalist(tmp_path) == [{"image": str(path)}]


def test_a_run_needs_images_of_different_names_outside_of_the_results(tmp_path):
    with pytest.raises(DataError, match="no images to segment; give --dataset_dir"):
        require_images(None, tmp_path)
    _touch(tmp_path, "in/a.nii.gz")
    require_images(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="this is the folder of the images, which results would replace"):
        require_images(tmp_path / "in", tmp_path / "in" / ".")
    _touch(tmp_path, "in/a.mha")
    with pytest.raises(DataError, match="whose results would have one name"):
        require_images(tmp_path / "in", tmp_path / "out")


def test_a_series_may_have_its_result_beside_it(tmp_path):
    _dicom(tmp_path / "series" / "1.dcm")
    require_images(tmp_path / "series", tmp_path)


def test_names_are_those_of_the_files_unless_they_clash(tmp_path):
    paths = _touch(tmp_path, "p1/t1.nii.gz", "p2/t1.nii.gz", "p2/t2.mha")
    assert unique_names(paths) == ["p1_t1", "p2_t1", "t2"]


def test_links_keep_their_own_names(tmp_path):
    [target] = _touch(tmp_path, "objects/5d41402a.nii.gz")
    links = [tmp_path / f"{name}.nii.gz" for name in ("a", "b")]
    for link in links:
        link.symlink_to(target)
    assert unique_names(links) == ["a", "b"]


def test_names_take_as_many_folders_as_they_need(tmp_path):
    paths = _touch(tmp_path, "a/s/t1.nii", "b/s/t1.nii", "b/s/t2.nii")
    assert unique_names(paths) == ["a_s_t1", "b_s_t1", "t2"]


@pytest.mark.parametrize("names", [("a.mha", "a.nii.gz"), ("b/a.nii", "b_a.nii", "c/a.nii")])
def test_files_that_no_folder_tells_apart_are_refused(tmp_path, names):
    with pytest.raises(DataError, match=r"got .*a\.\w+ and .*a\.nii(\.gz)?, whose results would have one name"):
        unique_names(_touch(tmp_path, *names))


BRATS = [["t1"], ["t1ce", "t1c"]]


@pytest.mark.parametrize("folder", ["", "case_a/"], ids=["side by side", "a folder for each case"])
def test_files_of_one_image_are_one_case(tmp_path, folder):
    first, second, _ = _touch(tmp_path, *(f"{folder}a_{kind}.nii.gz" for kind in ("t1", "t1ce", "seg")))
    assert image_datalist(tmp_path, BRATS) == [{"image": [str(first), str(second)]}]
    require_images(tmp_path, tmp_path / "out", BRATS)


def test_images_with_all_channels_stay_what_they_are_where_modalities_are_known(tmp_path):
    [path] = _touch(tmp_path, "a.nii.gz")
    assert image_datalist(tmp_path, BRATS) == image_datalist(path, BRATS) == [{"image": str(path)}]


def test_cases_whose_results_would_have_one_name_are_refused(tmp_path):
    _touch(tmp_path, *(f"{folder}/a_{kind}.nii.gz" for folder in ("one", "two") for kind in ("t1", "t1ce")))
    with pytest.raises(DataError, match="got a second case of this name"):
        require_images(tmp_path, tmp_path / "out", BRATS)
