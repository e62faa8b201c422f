from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import Compose, LoadImaged
from PIL import Image

from medsegdiff.data.image_reader import CheckedReader
from medsegdiff.errors import DataError, find_user_error

AFFINE = np.array([[0, -0.8, 0, 10], [0.9, 0, 0, -7], [0, 0, -2.5, 3], [0, 0, 0, 1.0]])


def _load(path, *, spatial_dims=3, channels=1):
    reader = CheckedReader(spatial_dims=spatial_dims, channels=channels)
    return Compose([LoadImaged("image", reader=reader, ensure_channel_first=True)])({"image": path})["image"]


def _save(path, shape=(5, 4, 3), affine=AFFINE):
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return array


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 3, 2)])
def test_a_nifti_file_comes_as_monai_reads_it(tmp_path, shape):
    _save(tmp_path / "a.nii.gz", shape)
    ours = _load(tmp_path / "a.nii.gz", channels=None)
    stock = LoadImaged("image", ensure_channel_first=True)({"image": tmp_path / "a.nii.gz"})["image"]
    np.testing.assert_array_equal(ours, stock)
    np.testing.assert_allclose(ours.affine, stock.affine)
    np.testing.assert_allclose(ours.meta["original_affine"], stock.meta["original_affine"])
    for key in ("filename_or_obj", "space"):
        assert ours.meta[key] == stock.meta[key]
    assert list(ours.meta["spatial_shape"]) == list(stock.meta["spatial_shape"])


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_the_same_volume_in_another_format_is_the_same_image(tmp_path, suffix):
    _save(tmp_path / "a.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / f"a{suffix}"))
    nifti, other = _load(tmp_path / "a.nii.gz"), _load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(other, nifti)
    np.testing.assert_allclose(other.affine, nifti.affine, atol=1e-5)


def test_a_colour_picture_has_its_channels_first_and_is_as_wide_as_monai_reads_it(tmp_path):
    Image.fromarray(np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)).save(tmp_path / "a.png")
    ours = _load(tmp_path / "a.png", spatial_dims=2, channels=3)
    stock = LoadImaged("image", ensure_channel_first=True)({"image": tmp_path / "a.png"})["image"]
    assert ours.shape == (3, 4, 5)
    np.testing.assert_array_equal(ours, stock)


def test_files_of_one_image_become_its_channels(tmp_path):
    first, second = _save(tmp_path / "a.nii.gz"), _save(tmp_path / "b.nii.gz") + 1
    nibabel.save(nibabel.Nifti1Image(second, AFFINE), tmp_path / "b.nii.gz")
    image = _load([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], channels=2)
    np.testing.assert_array_equal(image, np.stack([first, second]))


def test_a_user_error_survives_the_transforms_of_monai(tmp_path):
    _save(tmp_path / "a.nii.gz", (5, 4, 3, 2))
    with pytest.raises(RuntimeError) as caught:
        _load(tmp_path / "a.nii.gz")
    error = find_user_error(caught.value)
    assert isinstance(error, DataError)
    assert "with 1 channel" in str(error)


@pytest.mark.parametrize(
    ("channels", "other_affine", "message"),
    [(3, AFFINE, "got 2 files for an image of 3 channels"), (2, np.eye(4), "the grids are")],
    ids=["too few", "another grid"],
)
def test_files_that_are_no_channels_of_one_image_are_refused(tmp_path, channels, other_affine, message):
    _save(tmp_path / "a.nii.gz")
    _save(tmp_path / "b.nii.gz", affine=other_affine)
    with pytest.raises(RuntimeError) as caught:
        _load([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], channels=channels)
    error = find_user_error(caught.value)
    assert isinstance(error, DataError) and message in str(error)
