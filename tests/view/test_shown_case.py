from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from medsegdiff.data.reading import read_image
from medsegdiff.view.shown_case import as_nifti


def test_volumes_are_turned_to_right_front_and_head(make_case, tmp_path):
    case = make_case()
    canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / "image.nii.gz"))
    [image] = case.channels.values()
    np.testing.assert_array_equal(image, canonical.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(case.affine, canonical.affine)
    assert case.spacing == (2.0, 1.0, 1.5)
    # First of the three axes of the file: its front, its foot and its right.
    assert np.argwhere(case.label).tolist() == [[3, 4, 0], [3, 5, 0]]
    np.testing.assert_array_equal(case.uncertainty, case.label / 2)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_picture_stands_upright_and_keeps_its_colours(make_case, tmp_path, mode):
    path = tmp_path / "p.png"
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, len(mode)), dtype=np.uint8)  # rows, columns
    Image.fromarray(pixels.squeeze(), mode).save(path)
    label = np.zeros((4, 3), np.uint8)
    label[0, 0] = 1  # top left
    case = make_case(files=[path], label=label, uncertainty=None, affine=np.eye(4))
    assert list(case.channels) == ["p"] and case.is_picture
    shown = case.channels["p"][:, :, 0]
    expected = np.flipud(pixels[..., :3] if "RGB" in mode else pixels[..., 0]).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, expected)
    assert np.argwhere(case.label).tolist() == [[0, 2, 0]]


def test_channels_are_named_after_their_files_or_numbered(make_case, tmp_path):
    files = [tmp_path / f"{name}.nii.gz" for name in ("t1", "flair")]
    for value, file in enumerate(files):
        nibabel.save(nibabel.Nifti1Image(np.full((6, 5, 4), value, np.float32), np.eye(4)), file)
    case = make_case(files=files)
    assert {name: float(array.mean()) for name, array in case.channels.items()} == {"t1": 0.0, "flair": 1.0}
    path = tmp_path / "both.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4, 2), np.float32), np.eye(4)), path)
    assert list(make_case(files=[path]).channels) == ["both, channel 1", "both, channel 2"]


def test_it_is_empty_without_any_foreground(make_case):
    assert make_case(empty=True, classes=[]).is_empty and not make_case().is_empty


def test_a_nifti_file_of_it_holds_numbers_or_colours(tmp_path):
    levels = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    nibabel.save(as_nifti(levels, np.eye(4), slope=0.5), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").array, levels / 2)
    colours = np.random.default_rng(0).integers(0, 255, (3, 2, 1, 3), dtype=np.uint8)
    nibabel.save(as_nifti(colours, np.eye(4)), tmp_path / "c.nii")
    stored = np.asarray(nibabel.load(tmp_path / "c.nii").dataobj)
    np.testing.assert_array_equal(np.stack([stored[channel] for channel in "RGB"], axis=-1), colours)
