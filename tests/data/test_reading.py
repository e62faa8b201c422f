from __future__ import annotations

import shutil
import struct
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medsegdiff.data.reading import case_name, image_suffix, read_image
from medsegdiff.data.writer import write_images
from medsegdiff.errors import DataError

OBLIQUE = np.array(
    [[0.0, -1.2, 0.3, 5.0], [0.9, 0.0, 0.0, -7.0], [0.0, 0.4, 2.5, 11.0], [0.0, 0.0, 0.0, 1.0]], np.float64
)


def _volume(shape=(4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 500, shape).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
def test_every_format_gives_the_same_voxels_and_the_same_grid(tmp_path, suffix):
    array = _volume()
    affine = np.diag([-0.5, -2.0, 3.0, 1.0])
    affine[:3, 3] = (1, 2, 3)
    path = tmp_path / f"image{suffix}"
    if suffix.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    else:
        image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        image.SetSpacing((0.5, 2.0, 3.0))
        image.SetOrigin((-1.0, -2.0, 3.0))  # LPS
        sitk.WriteImage(image, str(path))
    raw = read_image(path)
    np.testing.assert_array_equal(raw.array, array)
    np.testing.assert_allclose(raw.affine, affine, atol=1e-6)
    assert raw.dtype == np.int16


def test_itk_and_nibabel_agree_on_an_oblique_grid(tmp_path):
    rotation, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = OBLIQUE.copy()
    affine[:3, :3] = rotation * (0.9, 1.2, 2.5)  # orthogonal: ITK knows no shear
    nibabel.save(nibabel.Nifti1Image(_volume(), affine), tmp_path / "image.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "image.nii.gz")), str(tmp_path / "image.mha"))
    ours, theirs = read_image(tmp_path / "image.mha"), read_image(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)


def test_the_channels_of_a_vector_image_come_last(tmp_path):
    array = _volume((3, 4, 5, 2))
    sitk.WriteImage(sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True), str(tmp_path / "image.mha"))
    np.testing.assert_array_equal(read_image(tmp_path / "image.mha").array, array)


@pytest.mark.parametrize(
    ("suffix", "mode", "channels"), [(".png", "L", 0), (".png", "LA", 2), (".tif", "RGB", 3), (".jpg", "RGB", 3)]
)
def test_pictures_come_as_width_height_channels(tmp_path, suffix, mode, channels):
    Image.new(mode, (7, 5)).save(tmp_path / f"image{suffix}")
    raw = read_image(tmp_path / f"image{suffix}")
    assert raw.array.shape == ((7, 5, channels) if channels else (7, 5))
    np.testing.assert_array_equal(raw.affine, np.eye(4))


def _palette(path, colours, **options):
    image = Image.new("P", (3, 2))
    image.putpalette(colours)
    image.putpixel((2, 1), 1)
    image.save(path, **options)
    return path


def test_a_palette_is_replaced_by_its_colours(tmp_path):
    array = read_image(_palette(tmp_path / "a.png", [200, 10, 0, 1, 2, 3])).array
    assert array.shape == (3, 2, 3)
    assert array[2, 1].tolist() == [1, 2, 3]
    assert array[0, 0].tolist() == [200, 10, 0]


def test_a_palette_of_greys_is_one_channel(tmp_path):
    array = read_image(_palette(tmp_path / "a.png", [255, 255, 255, 7, 7, 7])).array
    assert array.tolist() == [[255, 255], [255, 255], [255, 7]]


@pytest.mark.parametrize(("colour", "channels"), [([9, 9, 9], 2), ([9, 0, 0], 4)])
def test_transparency_in_a_palette_is_a_channel(tmp_path, colour, channels):
    path = _palette(tmp_path / "a.png", [0, 0, 0, *colour], transparency=0)
    array = read_image(path).array
    assert array.shape == (3, 2, channels)
    assert (array[0, 0, -1], array[2, 1, -1]) == (0, 255)


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".tif", np.float32)])
def test_grey_pictures_of_any_depth_are_read_as_stored(tmp_path, suffix, dtype):
    array = (np.arange(12).reshape(3, 4) * 5000).astype(dtype)
    Image.fromarray(array).save(tmp_path / f"a{suffix}")
    raw = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(raw.array, array.T)
    assert raw.dtype == dtype


def _png_of_16_bit_colours(path):
    """Pillow cannot write one."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = b"".join(b"\0" + bytes(5 * 3 * 2) for _ in range(4))
    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_colours_of_16_bits_are_not_cut_to_8(tmp_path):
    message = r"got 16-bit colours; allowed are grey of any depth and 8-bit RGB; convert it"
    with pytest.raises(DataError, match=message):
        read_image(_png_of_16_bit_colours(tmp_path / "a.png"))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colours_than_rgb_are_refused(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "a.tif")
    with pytest.raises(
        DataError, match=rf"a\.tif: got a picture of mode {mode}; allowed are grey of any depth and 8-bit"
    ):
        read_image(tmp_path / "a.tif")


def _pages(path, *arrays, **options):
    first, *rest = map(Image.fromarray, arrays)
    first.save(path, save_all=True, append_images=rest, **options)
    return path


def test_grey_pages_are_channels_as_we_write_them(tmp_path):
    probabilities = np.random.default_rng(0).random((4, 6, 5)).astype(np.float32)
    write_images({tmp_path / "p.tif": probabilities}, affine=np.eye(4))
    np.testing.assert_array_equal(read_image(tmp_path / "p.tif").array, np.moveaxis(probabilities, 0, -1))


@pytest.mark.parametrize("shapes", [[(4, 5), (4, 6)], [(4, 5, 3), (4, 5, 3)], [(4, 5, 3), (4, 5)]])
def test_pages_that_are_no_channels_are_refused(tmp_path, shapes):
    path = _pages(tmp_path / "a.tif", *(np.zeros(shape, np.uint8) for shape in shapes))
    with pytest.raises(
        DataError, match="got 2 pages that are no channels of one picture; allowed are one page, or grey"
    ):
        read_image(path)


def test_a_smaller_copy_of_a_picture_within_its_file_is_ignored(tmp_path):
    array = np.arange(20, dtype=np.uint8).reshape(4, 5)
    small = Image.fromarray(array[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}  # NewSubfileType: reduced
    Image.fromarray(array).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, array.T)


def _write_series(folder, positions, normal=(0.0, 0.0, 1.0)):
    """One 4 x 5 slice at each position along `normal`, as a DICOM series of axial orientation."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, position in enumerate(positions):
        image = sitk.GetImageFromArray(_volume((1, 5, 4)) + np.int16(index))
        image.SetMetaData("0008|0060", "MR")
        image.SetMetaData("0020|000e", "1.2.3.4.5")
        image.SetMetaData("0020|000d", "1.2.3.4.6")
        image.SetMetaData("0008|0018", f"1.2.3.4.5.{index + 1}")
        image.SetMetaData("0020|0032", "\\".join(f"{position * axis:.4f}" for axis in normal))
        image.SetMetaData("0020|0037", r"1\0\0\0\1\0")
        image.SetMetaData("0020|0013", str(index))
        writer.SetFileName(str(folder / f"{index}.dcm"))
        writer.Execute(image)


def test_a_dicom_folder_is_one_volume(tmp_path):
    _write_series(tmp_path / "series", [0.0, 2.5, 5.0])
    raw = read_image(tmp_path / "series")
    assert raw.array.shape == (4, 5, 3)
    np.testing.assert_allclose(np.linalg.norm(raw.affine[:3, :3], axis=0), (1, 1, 2.5))
    assert raw.array[0, 0, 2] - raw.array[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("positions", "normal", "problem"),
    [
        ([0.0, 2.5, 7.5], (0, 0, 1), "got 1 missing slice"),
        ([0.0, 0.0, 0.0], (0, 0, 1), "got 3 slices at 1 place"),
        ([0.0, 2.5, 5.0], (0, 0.3, 1), "got a gantry tilt of 16.7°"),
    ],
    ids=["a missing slice", "one place three times", "a tilted gantry"],
)
def test_slices_that_are_no_regular_volume_are_refused(tmp_path, positions, normal, problem):
    _write_series(tmp_path / "series", positions, normal)
    with pytest.raises(DataError, match=problem):
        read_image(tmp_path / "series")


def test_a_folder_without_dicom_is_refused(tmp_path, capfd):
    with pytest.raises(DataError, match="got a folder with no DICOM series; allowed is exactly one"):
        read_image(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_folder_with_two_series_is_refused(tmp_path):
    _write_series(tmp_path / "series", [0.0, 1.0])
    image = sitk.ReadImage(str(tmp_path / "series" / "0.dcm"))
    sitk.WriteImage(image, str(tmp_path / "series" / "other.dcm"))  # gets a series number of its own
    with pytest.raises(DataError, match="got a folder with 2 DICOM series; allowed is exactly one"):
        read_image(tmp_path / "series")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.nii\.gz: there is no such file or folder"):
        read_image(tmp_path / "nowhere.nii.gz")


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"got a file of another format; allowed are \.nii\.gz, .*DICOM series"):
        read_image(tmp_path / "notes.txt")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".nhdr", ".png", ".tif", ".jpg"])
@pytest.mark.parametrize("content", [b"", b"this is a text file\n" * 50], ids=["nothing", "text"])
def test_a_file_of_another_content_is_refused_in_one_line(tmp_path, suffix, content):
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read \(.+\); allowed are readable, undamaged files") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".png", ".jpg", ".tif"])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"image{suffix}"
    array = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    if suffix in (".png", ".jpg", ".tif"):
        Image.fromarray(array).save(path)
    elif suffix.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="cannot be read"):
        read_image(path)


def test_random_damage_gives_an_image_or_a_user_error(tmp_path):
    path = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(_volume((8, 8, 8)), np.eye(4)), path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 3):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except DataError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("name", "suffix", "case"),
    [
        ("imagesTr/case_01.nii.gz", ".nii.gz", "case_01"),
        ("CASE.NII", ".nii", "CASE"),
        ("a.b.mha", ".mha", "a.b"),
        ("notes.txt", None, "notes.txt"),
        (".nii.gz", ".gz", ".nii.gz"),
    ],
)
def test_names_without_folder_and_suffix(name, suffix, case):
    assert case_name(name) == case
    assert image_suffix(name) == (suffix if suffix != ".gz" else None)


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["gantrytilting", "notavolume", "sliceincrement", "sliceorientation"])
def test_real_series_that_are_no_volume_are_refused(data_root, kind):
    with pytest.raises(DataError, match="allowed is one regular volume"):
        read_image(data_root / "odd" / "dicom2nifti" / "failing" / kind / "001")


@pytest.mark.real_data
def test_a_real_series_is_read(data_root, tmp_path):
    shutil.copytree(data_root / "hippocampus" / "dicom_study1", tmp_path / "series")
    assert read_image(tmp_path / "series").array.shape == (35, 51, 32)
