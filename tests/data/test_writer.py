from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageSequence

from medsegdiff.data import writer
from medsegdiff.data.reading import read_image
from medsegdiff.data.writer import make_folder, write_images, write_nifti
from medsegdiff.errors import DataError

AFFINE = np.array([[0, -0.8, 0.1, 10], [0.9, 0, 0, -7.25], [0, 0.1, 2.5, 3], [0, 0, 0, 1.0]])


def _label(shape=(5, 4, 3), top=2):
    return (np.arange(np.prod(shape)).reshape(shape) % (top + 1)).astype(np.int64)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (_label(), np.uint8),
        (_label() > 1, np.uint8),
        (_label(top=255), np.uint8),
        (_label((10, 10, 3), top=299), np.uint16),
        (np.random.default_rng(0).random((5, 4, 3)), np.float32),
        (np.random.default_rng(0).random((5, 4, 3, 2)), np.float32),
    ],
    ids=["label", "mask", "256 classes", "300 classes", "map", "probabilities"],
)
def test_what_is_written_is_read_back(tmp_path, suffix, array, dtype):
    write_nifti(array, tmp_path / f"a{suffix}", affine=AFFINE)
    image = nibabel.load(tmp_path / f"a{suffix}")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), array.astype(dtype))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert image.header.get_xyzt_units() == ("mm", "unknown")
    assert _names(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize(("sform", "qform"), [(2, 1), (0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("big_endian", [False, True])
def test_the_grid_fields_of_the_original_are_kept_bit_for_bit(tmp_path, sform, qform, big_endian):
    header = nibabel.Nifti1Header(endianness=">" if big_endian else "<")
    original = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), AFFINE, header)
    original.set_sform(AFFINE if sform else None, sform)
    original.set_qform(AFFINE if qform else None, qform, strip_shears=True)
    original.header.set_xyzt_units("mm", "sec")
    nibabel.save(original, tmp_path / "like.nii.gz")
    like = nibabel.load(tmp_path / "like.nii.gz")
    for name, array in (("label", _label()), ("probabilities", np.random.default_rng(0).random((5, 4, 3, 2)))):
        path = tmp_path / f"{name}.nii.gz"
        write_nifti(array, path, affine=like.affine, like=tmp_path / "like.nii.gz")
        written = nibabel.load(path)
        np.testing.assert_array_equal(written.affine, like.affine)
        for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_z"):
            np.testing.assert_array_equal(written.header[field], like.header[field])
        assert written.header.get_zooms()[:3] == like.header.get_zooms()[:3]
        assert written.header.get_xyzt_units() == ("mm", "unknown")


def test_an_original_on_another_grid_is_not_followed(tmp_path):
    write_nifti(_label(), tmp_path / "like.nii", affine=np.eye(4))
    write_nifti(_label(), tmp_path / "a.nii", affine=AFFINE, like=tmp_path / "like.nii")
    np.testing.assert_allclose(nibabel.load(tmp_path / "a.nii").affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_channels_are_taken_one_by_one(tmp_path, suffix):
    array, taken = np.random.default_rng(0).random((3, 5, 4, 2)), []

    class Made(list):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            taken.append(index)
            return array[index]

    write_images({tmp_path / f"a{suffix}": Made()}, affine=AFFINE)
    assert taken == [0, 1, 2]
    image = nibabel.load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.moveaxis(array, 0, -1).astype(np.float32))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    # All of the file but where its voxels come from is what nibabel writes.
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), tmp_path / f"b{suffix}")
    assert nibabel.load(tmp_path / f"b{suffix}").header == image.header
    if suffix == ".nii":
        assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()


def test_the_same_result_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        write_nifti(_label(), tmp_path / f"{name}.nii.gz", affine=AFFINE)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # where gzip keeps the time


def test_channels_come_first_in_and_last_out(tmp_path):
    probabilities = np.random.default_rng(0).random((2, 5, 4, 3)).astype(np.float32)
    write_images({tmp_path / "p.nii.gz": probabilities, tmp_path / "l.nii.gz": _label()[None]}, affine=AFFINE)
    np.testing.assert_array_equal(read_image(tmp_path / "p.nii.gz").array, np.moveaxis(probabilities, 0, -1))
    assert read_image(tmp_path / "l.nii.gz").array.shape == (5, 4, 3)


def test_a_plane_becomes_a_volume_of_one_slice(tmp_path):
    write_images({tmp_path / "l.nii.gz": _label((5, 4))[None]}, affine=AFFINE)
    assert nibabel.load(tmp_path / "l.nii.gz").shape == (5, 4, 1)


@pytest.mark.parametrize("top", [2, 299])
def test_pictures_keep_the_order_of_their_axes(tmp_path, top):
    label = _label((20, 30), top=top)
    write_images({tmp_path / "l.png": label[None]}, affine=np.eye(4))
    np.testing.assert_array_equal(read_image(tmp_path / "l.png").array, label)


def test_maps_of_pictures_have_one_float_page_a_channel(tmp_path):
    probabilities = np.random.default_rng(0).random((3, 6, 4)).astype(np.float32)
    write_images({tmp_path / "p.tif": probabilities, tmp_path / "e.tif": probabilities[:1]}, affine=np.eye(4))
    with Image.open(tmp_path / "p.tif") as image:
        pages = [np.asarray(page).T for page in ImageSequence.Iterator(image)]
    np.testing.assert_array_equal(np.stack(pages), probabilities)
    np.testing.assert_array_equal(read_image(tmp_path / "e.tif").array, probabilities[0])


def test_nothing_is_left_when_writing_fails_in_the_middle(tmp_path, monkeypatch):
    (tmp_path / "old.nii.gz").write_bytes(b"a result of before")
    save, calls = writer._save_nifti, []

    def fail_at_the_second(array, path, *args, **options):
        calls.append(path)
        save(array, path, *args, **options)
        if len(calls) == 2:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(writer, "_save_nifti", fail_at_the_second)
    paths = [tmp_path / name for name in ("old.nii.gz", "b.nii.gz", "c.nii.gz")]
    with pytest.raises(DataError, match=r"b\.nii\.gz cannot be written .*No space left on device.*; free space"):
        write_images(dict.fromkeys(paths, _label()[None]), affine=AFFINE)
    assert _names(tmp_path) == ["old.nii.gz"]
    assert (tmp_path / "old.nii.gz").read_bytes() == b"a result of before"


def test_an_interruption_leaves_nothing_either(tmp_path, monkeypatch):
    def interrupt(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_storable", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_nifti(_label(), tmp_path / "a.nii.gz", affine=AFFINE)
    assert _names(tmp_path) == []


def test_a_folder_is_made_with_its_parents(tmp_path):
    folder = make_folder(tmp_path / "a" / "b")
    assert folder.is_dir() and _names(folder) == []
    assert make_folder(folder) == folder


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"file/out: results cannot be written there \(Not a directory\); name a folder"
    ):
        make_folder(tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"results cannot be written there \(Permission denied\)"):
        make_folder(tmp_path / "locked")


@pytest.mark.parametrize("suffix", [".nii.gz", ".png", ".tif"])
def test_the_description_stands_in_the_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_images({path: _label((5, 4))[None]}, affine=AFFINE, description="for research")
    if suffix == ".nii.gz":
        assert nibabel.load(path).header["descrip"].item() == b"for research"
        return
    with Image.open(path) as picture:
        assert (picture.text["Description"] if suffix == ".png" else picture.tag_v2[270]) == "for research"
