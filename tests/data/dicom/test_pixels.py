from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from medsegdiff.data.dicom.headers import read_header
from medsegdiff.data.dicom.pixels import read_voxels
from medsegdiff.data.dicom.volumes import find_volumes
from medsegdiff.errors import DataError
from tests.data.dicom.synthetic import CORONAL, compress, enhanced, noise, places, slices, write

HEIGHTS = np.arange(3) * 2.0


def _read(folder):
    frames = [frame for path in sorted(folder.iterdir()) for frame in read_header(path).frames]
    (volume,) = find_volumes(frames)
    return read_voxels(volume.grid)


def _volume_of(tmp_path, **options):
    return _read(write(tmp_path / "series", slices(places(HEIGHTS), **options)))


def test_voxels_are_columns_rows_slices_along_the_normal(tmp_path):
    volume = noise(3)
    datasets = slices(places(HEIGHTS[::-1]), volume=volume)
    voxels = _read(write(tmp_path, datasets))
    np.testing.assert_array_equal(voxels, volume[..., ::-1])
    assert voxels.dtype == np.int16


def test_values_and_places_are_those_of_simpleitk(tmp_path):
    datasets = slices(
        places(HEIGHTS[::-1], CORONAL), orientation=CORONAL, modality="CT", RescaleSlope="2", RescaleIntercept="-1024"
    )
    write(tmp_path, datasets)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    np.testing.assert_array_equal(_read(tmp_path), sitk.GetArrayFromImage(image).transpose(2, 1, 0))


def test_each_slice_has_its_own_slope_and_intercept(tmp_path):
    volume = noise(3)
    slopes, intercepts = ["1", "0.25", "1.5"], ["0", "-10", "3.5"]
    voxels = _volume_of(tmp_path, volume=volume, modality="PT", RescaleSlope=slopes, RescaleIntercept=intercepts)
    # ITK's reader of series takes the type of its first slice, here whole numbers, for all.
    expected = volume * np.array([1, 0.25, 1.5]) + np.array([0, -10, 3.5])
    np.testing.assert_allclose(voxels, expected, rtol=1e-6)
    assert voxels.dtype == np.float32


def test_a_slope_of_zero_is_left_out(tmp_path):
    volume = noise(3)
    np.testing.assert_array_equal(
        _volume_of(tmp_path, volume=volume, RescaleSlope="0", RescaleIntercept="5"), volume + 5
    )


@pytest.mark.parametrize(
    ("stored", "low", "high", "intercept", "expected"),
    [
        (np.int16, -32768, 32767, 0, np.int16),
        (np.uint16, 0, 4000, -1024, np.int16),
        (np.uint16, 0, 65535, 0, np.uint16),
        (np.uint16, 0, 65535, -1, np.int32),
        (np.int16, -32768, 100, -1024, np.int32),
        (np.int16, -2000, 3000, -1024, np.int16),
    ],
)
def test_no_number_overflows_and_none_takes_more_than_it_needs(tmp_path, stored, low, high, intercept, expected):
    volume = np.full((5, 4, 3), low, stored)
    volume[0, 0, 1] = high
    voxels = _volume_of(tmp_path, volume=volume, RescaleIntercept=str(intercept), RescaleSlope="1")
    assert (int(voxels.min()), int(voxels.max())) == (low + intercept, high + intercept)
    assert voxels.dtype == expected


def test_a_table_of_values_is_looked_up(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [4, 0, 16]
    table.LUTData = [7, 70, 700, 7000]
    volume = np.arange(60).reshape(5, 4, 3).astype(np.uint16) % 4
    datasets = slices(places(HEIGHTS), volume=volume)
    for data in datasets:
        data.ModalityLUTSequence = [table]
        data["ModalityLUTSequence"].value[0]["LUTDescriptor"].VR = "US"
        data["ModalityLUTSequence"].value[0]["LUTData"].VR = "US"
    np.testing.assert_array_equal(_read(write(tmp_path, datasets)), np.array([7, 70, 700, 7000])[volume])


@pytest.mark.parametrize("shape", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("compressor", [None, "JPEG", "JPEG2000"])
def test_values_do_not_depend_on_how_they_are_shown(tmp_path, shape, compressor):
    volume = noise(3, shape=(32, 24))
    datasets = slices(places(HEIGHTS), volume=volume, PhotometricInterpretation=shape)
    for data in datasets:
        if compressor:
            compress(data, compressor, tmp_path)
    np.testing.assert_array_equal(_read(write(tmp_path / "series", datasets)), volume)


@pytest.mark.parametrize(
    ("compressor", "syntax"), [("JPEG", JPEGLosslessSV1), ("JPEG2000", JPEG2000Lossless), ("RLE", RLELossless)]
)
@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_compressed_pixels_are_rescaled_once(tmp_path, compressor, syntax, dtype):
    volume = (noise(3, shape=(32, 24)) + (400 if dtype == np.uint16 else 0)).astype(dtype)
    datasets = slices(places(HEIGHTS), volume=volume, modality="CT", RescaleSlope="2", RescaleIntercept="-1024")
    for data in datasets:
        if compressor == "RLE":
            data.compress(RLELossless, generate_instance_uid=False)
        else:
            compress(data, compressor, tmp_path)
        assert data.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(_read(write(tmp_path / "series", datasets)), volume.astype(int) * 2 - 1024)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_files_of_any_kind_are_read(tmp_path, syntax):
    volume = noise(3)
    datasets = slices(places(HEIGHTS), volume=volume)
    for data in datasets:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
    np.testing.assert_array_equal(_read(write(tmp_path, datasets)), volume)


def test_files_that_begin_with_their_data_are_read(tmp_path):
    volume = noise(3)
    for index, data in enumerate(slices(places(HEIGHTS), volume=volume)):
        del data.file_meta
        data.is_little_endian = data.is_implicit_VR = True
        data.save_as(tmp_path / f"{index}.dcm")
    assert (tmp_path / "0.dcm").read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(_read(tmp_path), volume)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_frames_are_sorted_and_rescaled_one_by_one(tmp_path, order):
    volume = noise(3)
    slopes, intercepts = [1.0, 2.0, 0.5], [0.0, 10.0, -3.0]
    data = enhanced(places(HEIGHTS)[order], volume=volume, slope=slopes, intercept=intercepts)
    expected = np.empty(volume.shape)
    for frame, place in enumerate(order):
        expected[..., place] = volume[..., frame] * slopes[frame] + intercepts[frame]
    np.testing.assert_allclose(_read(write(tmp_path, [data])), expected)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_pixels_are_named_in_one_line(tmp_path, compressed):
    datasets = slices(places(HEIGHTS), volume=noise(3, shape=(32, 24)))
    if compressed:
        for data in datasets:
            compress(data, "JPEG", tmp_path)
    folder = write(tmp_path / "series", datasets)
    whole = (folder / "1.dcm").read_bytes()
    (folder / "1.dcm").write_bytes(whole[:-200])
    message = (
        r"^got pixels that cannot be decoded in instance 2 \(1\.dcm\) \(.+\); allowed are undamaged files, uncompr"
    )
    with pytest.raises(DataError, match=message) as caught:
        _read(folder)
    assert "\n" not in str(caught.value)


def test_pixels_of_another_size_than_the_header_says_are_refused(tmp_path):
    folder = write(tmp_path, slices(places(HEIGHTS)))
    frames = [frame for path in sorted(folder.iterdir()) for frame in read_header(path).frames]
    (volume,) = find_volumes(frames)
    data = dcmread(folder / "2.dcm")
    data.Rows, data.Columns = data.Columns, data.Rows
    data.save_as(folder / "2.dcm")
    with pytest.raises(DataError, match=r"got other pixels than the header says in instance 3 \(2\.dcm\)"):
        read_voxels(volume.grid)
