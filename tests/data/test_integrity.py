from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medsegdiff.data.integrity import GRID_TOLERANCE, check_image, check_pair, read_checked
from medsegdiff.errors import DataError

SHAPES = {2: (8, 6), 3: (8, 6, 4)}


def _image(shape=SHAPES[3], dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, shape).astype(dtype)


def _label(shape=SHAPES[3]) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[1:3, 1:3], label[4:6, 1:3] = 1, 2
    return label


def _save(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_channels_may_be_files_of_their_own(tmp_path):
    files = [_save(tmp_path / f"{name}.nii.gz", _image() + k) for k, name in enumerate(("t1", "flair"))]
    raw, facts = read_checked(files, spatial_dims=3, channels=2)
    assert (facts.path, facts.channels, facts.maximum) == (files[0], 2, _image().max() + 1)
    np.testing.assert_array_equal(raw.array, np.stack([_image(), _image() + 1], axis=-1))
    label = _save(tmp_path / "label.nii.gz", _label())
    assert check_pair(files, label, num_classes=3, channels=2).image.channels == 2


def test_a_channel_on_another_grid_is_named_with_both_grids(tmp_path):
    first = _save(tmp_path / "t1.nii.gz", _image())
    second = _save(tmp_path / "flair.nii.gz", _image((8, 6, 5)))
    with pytest.raises(DataError, match=r"flair.*\(8, 6, 5\).*t1\.nii\.gz has \(8, 6, 4\).*shapes differ"):
        check_image([first, second], spatial_dims=3)


@pytest.fixture
def pair(tmp_path):
    return _save(tmp_path / "image.nii.gz", _image()), _save(tmp_path / "label.nii.gz", _label())


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_image_gives_its_facts(tmp_path, spatial_dims, channels):
    shape = SHAPES[spatial_dims]
    array = _image((*shape, channels) if channels > 1 else shape)
    facts = check_image(
        _save(tmp_path / "image.nii.gz", array, np.diag([2.0, 3.0, 4.0, 1.0])),
        spatial_dims=spatial_dims,
        channels=channels,
    )
    assert facts.shape == shape
    assert facts.channels == channels
    assert facts.spacing == (2.0, 3.0, 4.0)[:spatial_dims]
    assert facts.dtype == np.float32
    assert (facts.minimum, facts.maximum) == (array.min(), array.max())
    np.testing.assert_array_equal(facts.affine, np.diag([2.0, 3.0, 4.0, 1.0]))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_volume_of_one_slice_is_a_plane(tmp_path, channels):
    array = _image((8, 6, 1, channels) if channels > 1 else (8, 6, 1))
    raw, facts = read_checked(_save(tmp_path / "image.nii.gz", array), spatial_dims=2, channels=channels)
    assert (facts.shape, facts.channels) == ((8, 6), channels)
    np.testing.assert_array_equal(raw.array, array[:, :, 0])
    label = _save(tmp_path / "label.nii.gz", _label((8, 6, 1)))
    assert check_pair(tmp_path / "image.nii.gz", label, num_classes=3, spatial_dims=2, channels=channels).class_voxels


def test_any_number_of_channels_is_allowed_where_none_is_asked_for(tmp_path):
    path = _save(tmp_path / "image.nii.gz", _image((*SHAPES[3], 5)))
    assert check_image(path, spatial_dims=3).channels == 5


def test_an_image_is_read_once(tmp_path, monkeypatch):
    path = _save(tmp_path / "image.nii.gz", _image())
    reads = []
    load = nibabel.load
    monkeypatch.setattr(nibabel, "load", lambda name: reads.append(name) or load(name))
    check_image(path, spatial_dims=3, channels=1)
    assert reads == [path]


def test_a_sound_pair_gives_the_voxels_of_each_class(pair):
    findings = check_pair(*pair, num_classes=3)
    assert findings.class_voxels == tuple(np.bincount(_label().ravel()))
    assert findings.image.shape == findings.label.shape == SHAPES[3]


def test_a_pair_of_pictures_is_checked_in_2d(tmp_path):
    Image.fromarray(_image((6, 8, 3), np.uint8)).save(tmp_path / "image.jpg")
    Image.fromarray(_label((6, 8))).save(tmp_path / "label.png")
    findings = check_pair(tmp_path / "image.jpg", tmp_path / "label.png", num_classes=3, spatial_dims=2, channels=3)
    assert findings.image.shape == (8, 6)


@pytest.mark.parametrize(
    ("mode", "channels", "message"),
    [
        ("RGB", 1, r"\(3 channels\); allowed is a 2-D image with 1 channel"),
        ("L", 3, r"\(1 channel\); allowed is a 2-D image with 3 channels"),
        ("LA", 1, r"\(2 channels\); allowed is a 2-D image with 1 channel"),
        ("RGBA", 3, r"\(4 channels\); allowed is a 2-D image with 3 channels"),
    ],
)
def test_a_picture_of_other_channels_is_refused_in_one_line(tmp_path, mode, channels, message):
    path = tmp_path / "image.png"
    Image.new(mode, (8, 6)).save(path)
    with pytest.raises(DataError, match=message) as caught:
        check_image(path, spatial_dims=2, channels=channels)
    assert "\n" not in str(caught.value)


def test_a_label_of_colours_in_a_palette_is_refused(tmp_path):
    Image.fromarray(_image((6, 8), np.uint8)).save(tmp_path / "image.png")
    label = Image.fromarray(_label((6, 8))).convert("P")
    label.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    label.save(tmp_path / "label.png")
    with pytest.raises(DataError, match=r"label\.png: got 3-D data .*\(3 channels\); allowed is .* with 1 channel"):
        check_pair(tmp_path / "image.png", tmp_path / "label.png", num_classes=3, spatial_dims=2)


def test_image_and_label_may_have_different_formats(pair, tmp_path):
    sitk.WriteImage(sitk.ReadImage(str(pair[1])), str(tmp_path / "label.mha"))
    assert check_pair(pair[0], tmp_path / "label.mha", num_classes=3).label.shape == SHAPES[3]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent\.nii\.gz: there is no such file or folder; give the path"):
        check_image(tmp_path / "absent.nii.gz", spatial_dims=3)


def test_a_truncated_gzip_is_refused(pair):
    _save(pair[0], _image((20, 20, 20)))
    pair[0].write_bytes(pair[0].read_bytes()[: pair[0].stat().st_size // 2])
    with pytest.raises(DataError, match=r"image\.nii\.gz: cannot be read \(.*end-of-stream.*\); allowed are readable"):
        check_image(pair[0], spatial_dims=3)


@pytest.mark.parametrize("content", [b"not an image\n", gzip.compress(b"not an image\n" * 100)], ids=["plain", "gzip"])
def test_a_text_file_with_the_suffix_of_an_image_is_refused(pair, content):
    pair[0].write_bytes(content)
    with pytest.raises(DataError, match=r"image\.nii\.gz: cannot be read .* content fits their suffix"):
        check_image(pair[0], spatial_dims=3)


def test_an_axis_of_length_zero_is_refused(tmp_path):
    path = _save(tmp_path / "image.nii.gz", np.zeros((4, 0, 4), np.float32))
    with pytest.raises(DataError, match=r"got an axis of length zero, shape \(4, 0, 4\); allowed are axes of 1 voxel"):
        check_image(path, spatial_dims=3)


@pytest.mark.parametrize(
    ("shape", "spatial_dims", "channels", "message"),
    [
        (
            (8, 6, 4, 2),
            3,
            1,
            r"got 4-D data of shape \(8, 6, 4, 2\) \(2 channels\); allowed is a 3-D image with 1 chan",
        ),
        ((8, 6, 4), 3, 4, r"got 3-D data of shape \(8, 6, 4\) \(1 channel\); allowed is a 3-D image with 4 channels"),
        ((8, 6, 4, 2), 3, 4, r"\(2 channels\); allowed is a 3-D image with 4 channels; select, split or stack"),
        ((8, 6), 3, 1, r"got 2-D data of shape \(8, 6\); allowed is a 3-D image with 1 channel"),
        ((8, 6, 4), 2, 1, r"got 3-D data of shape \(8, 6, 4\) \(4 channels\); allowed is a 2-D image with 1 channel"),
        ((8, 6, 4, 2), 2, None, r"got 4-D data of shape .*; allowed is a 2-D image with channels, if any, on the last"),
    ],
)
def test_other_axes_or_channels_are_refused(tmp_path, shape, spatial_dims, channels, message):
    path = _save(tmp_path / "image.nii.gz", _image(shape))
    with pytest.raises(DataError, match=message):
        check_image(path, spatial_dims=spatial_dims, channels=channels)


def test_a_fourth_axis_of_length_one_is_one_channel(tmp_path):
    facts = check_image(_save(tmp_path / "image.nii.gz", _image((*SHAPES[3], 1))), spatial_dims=3, channels=1)
    assert (facts.shape, facts.channels) == (SHAPES[3], 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_voxels_that_are_not_finite_are_counted(tmp_path, value):
    array = _image().astype(np.float64)
    array[0, 0, :3] = value
    with pytest.raises(
        DataError, match="got 3 of 192 voxels that are NaN, infinite or beyond float32; allowed are fin"
    ):
        check_image(_save(tmp_path / "image.nii.gz", array), spatial_dims=3)


def test_voxels_that_are_no_real_numbers_are_refused(tmp_path):
    path = _save(tmp_path / "image.nii.gz", _image().astype(np.complex64))
    with pytest.raises(DataError, match="got voxels of type complex64; allowed are real numbers"):
        check_image(path, spatial_dims=3)


def test_a_constant_image_is_refused(tmp_path):
    with pytest.raises(DataError, match="got the value 7 in every voxel; allowed is an image with contrast"):
        check_image(_save(tmp_path / "image.nii.gz", np.full(SHAPES[3], 7, np.int16)), spatial_dims=3)


def test_a_constant_channel_is_only_mentioned(tmp_path, caplog):
    array = _image((*SHAPES[3], 3))
    array[..., 1] = 0
    check_image(_save(tmp_path / "image.nii.gz", array), spatial_dims=3, channels=3)
    assert "channel 1 of 3 is constant" in caplog.text


@pytest.mark.parametrize("affine", [np.diag([1.0, 0.0, 1.0, 1.0]), np.diag([1.0, np.nan, 1.0, 1.0])])
def test_a_grid_without_extent_is_refused(tmp_path, affine):
    path = _save(tmp_path / "image.nii", _image())
    content = bytearray(path.read_bytes())
    content[280:328] = affine[:3].astype("<f4").tobytes()  # the header's srow_x, srow_y and srow_z
    path.write_bytes(content)
    with pytest.raises(DataError, match="a grid without extent; allowed are finite, non-zero voxel sizes"):
        check_image(path, spatial_dims=3)


def test_unexpected_label_values_are_listed_with_the_allowed(pair):
    label = _label().astype(np.int16)
    label[0, 0, :3] = (5, 7, -1)
    _save(pair[1], label)
    with pytest.raises(
        DataError, match=r"label\.nii\.gz: got the label values -1, 5, 7 in 3 vox.*allowed are 0, 1, 2;"
    ):
        check_pair(*pair, num_classes=3)


def test_a_long_list_of_label_values_is_cut(pair):
    _save(pair[1], np.arange(192, dtype=np.uint8).reshape(SHAPES[3]))
    with pytest.raises(
        DataError, match=r"got the label values 16, 17, .* and 168 more in 176 voxels; allowed are 0 to 15"
    ):
        check_pair(*pair, num_classes=16)


def test_a_label_with_fractions_is_refused(pair):
    _save(pair[1], _label() * np.float32(0.5))
    with pytest.raises(DataError, match=r"got the label values 0\.5 in"):
        check_pair(*pair, num_classes=3)


def test_a_label_stored_with_a_scale_is_rounded(pair):
    _save(pair[1], _label() * np.float32(0.99999997))
    assert sum(check_pair(*pair, num_classes=3).class_voxels[1:]) == np.count_nonzero(_label())


def test_a_label_with_nan_is_refused(pair):
    label = _label().astype(np.float32)
    label[0, 0, 0] = np.nan
    _save(pair[1], label)
    with pytest.raises(DataError, match=r"label\.nii\.gz: got 1 of 192 voxels that are NaN"):
        check_pair(*pair, num_classes=3)


def test_an_empty_label_is_refused(pair):
    _save(pair[1], np.zeros(SHAPES[3], np.uint8))
    with pytest.raises(DataError, match="got a label without foreground, 0 everywhere; allowed is at least one voxel"):
        check_pair(*pair, num_classes=3)


def test_a_label_with_channels_is_refused(pair):
    _save(pair[1], np.stack([_label(), _label()], axis=-1))
    with pytest.raises(DataError, match=r"label\.nii\.gz: got 4-D data .*; allowed is a 3-D image with 1 channel"):
        check_pair(*pair, num_classes=3)


def test_another_shape_is_another_grid_and_both_are_given(pair):
    _save(pair[1], _label((8, 6, 5)))
    message = (
        r"label.*got a grid of shape \(8, 6, 5\) .*image.* has \(8, 6, 4\) .*: the shapes differ; allowed is one and"
    )
    with pytest.raises(DataError, match=message):
        check_pair(*pair, num_classes=3)


@pytest.mark.parametrize(
    "change",
    [
        lambda affine: affine + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4]),
        lambda affine: affine @ np.diag([-1, 1, 1, 1]),
        lambda affine: affine @ np.diag([1.05, 1, 1, 1]),
    ],
    ids=["half a voxel", "flipped", "other spacing"],
)
def test_another_affine_is_another_grid(pair, change):
    _save(pair[1], _label(), change(np.eye(4)))
    with pytest.raises(DataError, match=r"the grids are [\d.]+ mm apart; allowed is one and the same grid; resample"):
        check_pair(*pair, num_classes=3)


@pytest.mark.parametrize(("factor", "same"), [(0.9, True), (1.1, False)])
def test_the_tolerance_of_grids_is_a_share_of_the_smallest_edge(pair, factor, same):
    affine = np.diag([0.5, 1.0, 3.0, 1.0])
    _save(pair[0], _image(), affine)
    affine[2, 3] += factor * GRID_TOLERANCE * 0.5
    _save(pair[1], _label(), affine)
    if same:
        check_pair(*pair, num_classes=3)
        return
    with pytest.raises(DataError, match="the grids are"):
        check_pair(*pair, num_classes=3)


def test_every_message_is_one_line_that_begins_with_the_file(pair):
    _save(pair[1], _label((8, 6, 5)))
    with pytest.raises(DataError) as caught:
        check_pair(*pair, num_classes=3)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{pair[1]}: got ")


@pytest.mark.real_data
def test_the_label_of_another_organ_does_not_fit(data_root):
    misfits = data_root / "hippocampus" / "misfits"
    message = r"got a grid of shape \(512, 512, 94\) .* has \(37, 52, 33\) .*the shapes differ"
    with pytest.raises(DataError, match=message):
        check_pair(misfits / "image_hippocampus_118.nii.gz", misfits / "label_hippocampus_281.nii.gz", num_classes=3)


@pytest.mark.real_data
def test_a_real_volume_with_nan_is_refused(data_root):
    with pytest.raises(DataError, match="got 408 of 27744 voxels that are NaN"):
        check_image(data_root / "odd" / "spinal_cord" / "fmri" / "fmri_tsnr.nii.gz", spatial_dims=3, channels=1)
