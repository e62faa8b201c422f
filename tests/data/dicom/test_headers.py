from __future__ import annotations

import pytest
from pydicom.uid import (
    EncapsulatedPDFStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from medsegdiff.data.dicom.headers import is_dicom, read_header
from medsegdiff.errors import DataError
from tests.data.dicom.synthetic import SERIES, contours, dataset, enhanced, places, slices, write


def _written(tmp_path, data, name="a.dcm"):
    return write(tmp_path, [data], names=[name]) / name


def test_a_slice_says_what_its_header_says(tmp_path):
    (data,) = slices(places([0.0]), modality="CT", SeriesDescription=" Chest  3.0 ", RescaleIntercept="-1024")
    header = read_header(_written(tmp_path, data, "IM0001"))
    assert (header.series_uid, header.series_number, header.modality) == (SERIES, 4, "CT")
    assert header.description == "Chest  3.0"
    assert header.no_image is None and not header.is_secondary_capture
    (frame,) = header.frames
    assert frame.name == "instance 1 (IM0001)"
    assert (frame.slope, frame.intercept, frame.stored) == (1, -1024, (-(2**15), 2**15 - 1))


def test_a_file_needs_no_suffix_but_its_mark(tmp_path):
    (data,) = slices(places([0.0]))
    assert is_dicom(_written(tmp_path, data, "IM_0001"))
    (tmp_path / "notes").write_text("hello")
    assert not is_dicom(tmp_path / "notes")
    assert read_header(tmp_path / "notes") is None


@pytest.mark.parametrize("name", ["DICOMDIR", "renamed.dcm"])
def test_the_directory_of_a_medium_is_no_file_of_a_series(tmp_path, name):
    data = dataset(MediaStorageDirectoryStorage, 1)
    del data.SeriesInstanceUID
    assert read_header(_written(tmp_path, data, name)) is None


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (contours(), "contours"),
        (contours(Modality="SR"), "a report"),
        (contours(Modality="RTPLAN"), "a treatment plan"),
        (dataset(EncapsulatedPDFStorage, 1, Modality="DOC"), "no image"),
        (dataset(RawDataStorage, 1, Modality="MR"), "no image"),
        (dataset(SegmentationStorage, 1, Modality="SEG", Rows=4, Columns=5), "a segmentation"),
        (dataset("1.2.840.10008.5.1.4.1.1.481.2", 1, Modality="RTDOSE", Rows=4, Columns=5), "a dose distribution"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_image_is_known(tmp_path, data, what):
    header = read_header(_written(tmp_path, data))
    assert header.no_image == what
    assert header.frames == ()


def test_a_picture_of_the_screen_is_known(tmp_path):
    (data,) = slices(places([0.0]), SOPClassUID=SecondaryCaptureImageStorage)
    assert read_header(_written(tmp_path, data)).is_secondary_capture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names neither a series nor a number of rows"),
        (b"this is a text file" * 40, "cannot be used"),
        (bytes(200), "names neither a series nor a number of rows"),
    ],
    ids=["nothing", "text", "zeros"],
)
def test_a_file_that_only_calls_itself_dicom_is_damaged(tmp_path, content, message):
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: got a DICOM file whose header cannot be used (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_a_header_that_is_cut_off_gives_a_slice_or_a_user_error(tmp_path, share):
    data = slices(places([0.0]))[0]
    del data.PixelData
    path = _written(tmp_path, data)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="header cannot be used"):
        read_header(path)


def test_an_image_without_rows_is_damaged(tmp_path):
    with pytest.raises(DataError, match="it names no number of rows and columns"):
        read_header(_written(tmp_path, dataset(MRImageStorage, 1, Modality="MR")))


def test_frames_without_a_description_each_are_damaged(tmp_path):
    data = enhanced(places([0.0, 1, 2]))
    del data.PerFrameFunctionalGroupsSequence[1]
    with pytest.raises(DataError, match="it describes 2 of 3 frames"):
        read_header(_written(tmp_path, data))


def test_frames_without_functional_groups_have_no_place(tmp_path):
    data = slices(places([0.0]))[0]
    data.NumberOfFrames = 6
    frames = read_header(_written(tmp_path, data)).frames
    assert len(frames) == 6 and not any(frame.has_place for frame in frames)


def test_invalid_numbers_neither_warn_nor_are_taken(tmp_path, recwarn):
    data = slices(places([0.0]))[0]
    path = _written(tmp_path, data)
    path.write_bytes(path.read_bytes().replace(b"3\\-7\\11", b"3\\-7\\xx"))
    with pytest.raises(DataError, match="header cannot be used") as caught:
        read_header(path)
    # What stands in a header may be a name.
    assert "\n" not in str(caught.value) and "xx" not in str(caught.value)
    assert not recwarn.list
