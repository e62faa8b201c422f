from __future__ import annotations

import logging
import re
from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest

import medsegdiff
from medsegdiff.data.dicom.folder import read_folder
from medsegdiff.data.dicom.segmentation import Producer, write_segmentation
from medsegdiff.data.dicom.segments import ANATOMY, Code, Segment
from medsegdiff.data.dicom.source import read_source
from medsegdiff.errors import DataError
from medsegdiff.notice import RESEARCH_ONLY
from tests.data.dicom.segmentations import FRAME_OF_REFERENCE, places_of, voxels_of, voxels_on_grid
from tests.data.dicom.synthetic import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    SERIES,
    STUDY,
    enhanced,
    noise,
    places,
    slices,
    write,
)
from tests.data.dicom.validator import DCIODVFY, MISSING, dicom_errors

HEIGHTS = np.arange(4) * 2.5
KIDNEY = Code("64033007", "SCT", "Kidney")
LEFT, RIGHT = Code("7771000", "SCT", "Left"), Code("24028007", "SCT", "Right")
SEGMENTS = (
    Segment(label="left kidney", category=ANATOMY, type=KIDNEY, modifier=LEFT, rgb=(255, 0, 0)),
    Segment(label="right kidney", category=ANATOMY, type=KIDNEY, modifier=RIGHT, rgb=(0, 0, 255)),
    Segment(label="other", category=ANATOMY, type=KIDNEY, rgb=(0, 255, 0)),
)
PRODUCER = Producer(name="kidneys", version="1.2.3", parameters={"method": "recycling", "seed": "7"})
SHARES = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")


def _series(orientation=AXIAL, order=(0, 1, 2, 3), **attributes):
    positions = places(HEIGHTS, orientation)[list(order)]
    attributes = {"FrameOfReferenceUID": FRAME_OF_REFERENCE, **attributes}
    return slices(positions, orientation=orientation, volume=noise(len(order)), **attributes)


def _label(shape, seed=3, classes=3):
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.uint8)


def _written(folder, label=None, *, segments=SEGMENTS, path=None, producer=PRODUCER):
    source = read_source(folder)
    label = _label(source.grid.shape) if label is None else label
    path = folder / "seg.out" if path is None else path
    write_segmentation(label, path, source=source, segments=segments, producer=producer)
    return pydicom.dcmread(path), label, read_folder(folder)[1]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)], ids=["up", "down", "mixed"])
@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, OBLIQUE, -OBLIQUE, AXIAL[::-1], AXIAL * [-1, 1, 1]])
def test_every_voxel_lies_where_the_label_map_has_it(tmp_path, orientation, order):
    data, label, affine = _written(write(tmp_path, _series(orientation, order)))
    assert voxels_on_grid(data, affine) == voxels_of(label)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)], ids=["up", "mixed"])
def test_frames_of_a_multi_frame_file_are_referred_to_by_number(tmp_path, order):
    image = enhanced(places(HEIGHTS, OBLIQUE)[list(order)], orientation=OBLIQUE)
    data, label, affine = _written(write(tmp_path, [image]))
    assert voxels_on_grid(data, affine) == voxels_of(label)
    (series,) = data.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == [image.SOPInstanceUID]
    for group in data.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        assert reference.ReferencedSOPClassUID == image.SOPClassUID
        original = image.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        np.testing.assert_allclose(
            group.PlanePositionSequence[0].ImagePositionPatient,
            original.PlanePositionSequence[0].ImagePositionPatient,
        )


def test_left_stays_left(tmp_path):
    folder = write(tmp_path, _series())
    label = np.zeros((5, 4, 4), np.uint8)
    label[4, 1, 2] = 1  # columns run to the patient's left
    data, _, _ = _written(folder, label)
    np.testing.assert_allclose(places_of(data)[1], [(3 + 4 * 0.5, -7 + 0.8, 11 + 2 * 2.5)])


def test_a_single_slice_and_a_map_without_its_axis(tmp_path):
    folder = write(tmp_path, _series()[:1])
    data, label, affine = _written(folder, _label((5, 4)))
    assert voxels_on_grid(data, affine) == voxels_of(label[..., None])


def test_each_class_is_a_segment_with_its_codes(tmp_path):
    data, _, _ = _written(write(tmp_path, _series()))
    assert [(item.SegmentNumber, item.SegmentLabel) for item in data.SegmentSequence] == [
        (1, "left kidney"),
        (2, "right kidney"),
        (3, "other"),
    ]
    left, right, other = data.SegmentSequence
    for item, side in ((left, LEFT), (right, RIGHT)):
        (kind,) = item.SegmentedPropertyTypeCodeSequence
        assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("64033007", "SCT", "Kidney")
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == side.value
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == ANATOMY.value
        assert item.SegmentAlgorithmType == "AUTOMATIC"
    assert "SegmentedPropertyTypeModifierCodeSequence" not in other.SegmentedPropertyTypeCodeSequence[0]
    # CIELab of sRGB red: L* = 53.24, a* = 80.09, b* = 67.20.
    scaled = (53.24 / 100 * 65535, (80.09 + 128) / 255 * 65535, (67.20 + 128) / 255 * 65535)
    np.testing.assert_allclose(left.RecommendedDisplayCIELabValue, scaled, atol=15)


def test_it_says_what_made_it_and_for_what_it_may_be_used(tmp_path):
    data, _, _ = _written(write(tmp_path, _series()))
    assert data.ContentDescription == RESEARCH_ONLY
    assert "research use only" in data.SeriesDescription
    assert (data.ManufacturerModelName, data.SoftwareVersions) == ("kidneys", f"medsegdiff {medsegdiff.__version__}")
    for item in data.SegmentSequence:
        assert RESEARCH_ONLY in item.SegmentDescription
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("kidneys", "1.2.3")
        assert "recycling" in algorithm.AlgorithmParameters and "seed" in algorithm.AlgorithmParameters


@pytest.mark.parametrize("share", SHARES)
def test_it_says_which_part_a_program_had(tmp_path, share):
    data, _, _ = _written(write(tmp_path, _series()), producer=replace(PRODUCER, share=share))
    for item in data.SegmentSequence:
        assert item.SegmentAlgorithmType == share
        named = share != "MANUAL"
        assert ("SegmentAlgorithmName" in item) == ("SegmentationAlgorithmIdentificationSequence" in item) == named


@pytest.mark.skipif(DCIODVFY is None, reason=MISSING)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["classic", "multi-frame", "empty"])
def test_a_validator_finds_no_error(tmp_path, share, kind):
    images = [enhanced(places(HEIGHTS, OBLIQUE), orientation=OBLIQUE)] if kind == "multi-frame" else _series(OBLIQUE)
    for image in images:
        image.PatientSex = "F"
    label = np.zeros((5, 4, 4), np.uint8) if kind == "empty" else None
    path = tmp_path / "out.dcm"
    _written(write(tmp_path / "images", images), label, path=path, producer=replace(PRODUCER, share=share))
    assert dicom_errors(path) == []


def test_it_belongs_to_the_patient_and_study_and_refers_to_every_image(tmp_path):
    about = {"AccessionNumber": "A-77", "PatientSex": "F", "StudyDescription": "kidneys", "StudyID": "9"}
    series = _series(order=(2, 0, 3, 1), **about)
    data, _, _ = _written(write(tmp_path, series))
    for keyword, value in {
        "PatientID": "MRN-4711",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19500102",
        "PatientSex": "F",
        "StudyInstanceUID": STUDY,
        "StudyDate": "20210304",
        "StudyID": "9",
        "StudyDescription": "kidneys",
        "AccessionNumber": "A-77",
        "FrameOfReferenceUID": FRAME_OF_REFERENCE,
        "Modality": "SEG",
    }.items():
        assert data.get(keyword) == value, keyword
    assert data.SeriesInstanceUID not in (SERIES, "")
    (references,) = data.ReferencedSeriesSequence
    assert references.SeriesInstanceUID == SERIES
    uids = {item.ReferencedSOPInstanceUID for item in references.ReferencedInstanceSequence}
    assert uids == {image.SOPInstanceUID for image in series}
    by_uid = {image.SOPInstanceUID: image for image in series}
    for group in data.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        image = by_uid[reference.ReferencedSOPInstanceUID]
        assert group.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient


def test_two_segmentations_of_a_series_have_uids_of_their_own(tmp_path):
    folder = write(tmp_path / "a", _series())
    (first, *_), (second, *_) = (_written(folder, path=tmp_path / name) for name in "bc")
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_frames_without_their_segment_are_left_out(tmp_path):
    label = np.zeros((5, 4, 4), np.uint8)
    label[1, 1, 0] = label[2, 2, 3] = 1
    label[3, 1, 2] = 3
    data, _, affine = _written(write(tmp_path, _series()), label)
    assert data.NumberOfFrames == 3
    assert voxels_on_grid(data, affine) == voxels_of(label)
    assert len(data.SegmentSequence) == 3


def test_a_map_without_foreground_gives_a_valid_empty_file(tmp_path):
    data, _, _ = _written(write(tmp_path, _series()), np.zeros((5, 4, 4), np.uint8))
    assert data.NumberOfFrames > 0
    assert not any(len(found) for found in places_of(data).values())


def test_highdicoms_own_parser_reads_it(tmp_path):
    path = tmp_path / "out.dcm"
    folder = write(tmp_path / "images", _series(OBLIQUE, (2, 0, 3, 1)))
    _, label, _ = _written(folder, path=path)
    parsed = highdicom.seg.segread(path)
    assert parsed.number_of_segments == 3
    assert parsed.get_segment_description(2).segmented_property_type.meaning == "Kidney"
    uids = [image.SOPInstanceUID for image in read_source(folder).slice_headers()]
    pixels = parsed.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True)
    np.testing.assert_array_equal(np.moveaxis(pixels, (0, 1, 2), (2, 1, 0)), label)


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 192", "Иванов^Пётр"), ("ISO_IR 144", "Иванов^Пётр")],
)
def test_names_in_other_alphabets_come_through(tmp_path, charset, name):
    data, _, _ = _written(write(tmp_path, _series(SpecificCharacterSet=charset, PatientName=name)))
    assert data.PatientName == name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_header_has_wrong_is_repeated_without_a_word(tmp_path, caplog, recwarn, capfd):
    series = _series(PatientSex="female", PatientID="X" * 70, StudyTime="noon", AccessionNumber="A" * 30)
    for image in series:
        del image.PatientBirthDate, image.StudyDate
    folder = write(tmp_path, series)
    recwarn.clear()
    caplog.clear()
    label = np.zeros((5, 4, 4), np.uint8)
    with caplog.at_level(logging.DEBUG):
        source = read_source(folder)
        write_segmentation(label, tmp_path / "o", source=source, segments=SEGMENTS, producer=PRODUCER)
    assert not caplog.records and not recwarn.list and capfd.readouterr() == ("", "")
    data = pydicom.dcmread(tmp_path / "o")
    assert (data.PatientID, data.PatientSex, data.PatientBirthDate) == ("X" * 70, "female", "")
    assert (data.StudyTime, data.StudyDate) == ("noon", "")


def test_a_series_without_frame_of_reference_gets_one_of_its_own(tmp_path):
    series = _series(FrameOfReferenceUID="")
    (first, *_), (second, *_) = (_written(write(tmp_path / "a", series), path=tmp_path / name) for name in "bc")
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID != ""


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros((4, 5, 4), np.uint8), "got a label map of (4, 5, 4) for a series of (5, 4, 4) voxels"),
        (np.zeros((5, 4), np.uint8), "got a label map of (5, 4) for a series of (5, 4, 4) voxels"),
        (np.full((5, 4, 4), 4, np.uint8), "got a label map with class 4 and 3 segments"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(tmp_path, label, message):
    with pytest.raises(DataError, match=re.escape(message)):
        _written(write(tmp_path, _series()), label)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "series",
    [
        "hippocampus/dicom_study1",
        "prostatex/dicom/07-07-2011/4.000000-t2tsetra-00702",
        "sts/dicom/STS_002/PET/image",
        "odd/dicom2nifti/siemens_multiframe/anatomical/001",
    ],
)
def test_real_series_get_segmentations_voxel_for_voxel(data_root, tmp_path, series):
    folder = data_root / series
    source = read_source(folder)
    label = np.zeros(source.grid.shape, np.uint8)
    generator = np.random.default_rng(0)
    for number in (1, 2, 3):
        label[tuple(generator.integers(0, size, 40) for size in label.shape)] = number
    write_segmentation(label, tmp_path / "o.dcm", source=source, segments=SEGMENTS, producer=PRODUCER)
    data = pydicom.dcmread(tmp_path / "o.dcm")
    _, affine = read_folder(folder)
    assert voxels_on_grid(data, affine) == voxels_of(label)
    assert highdicom.seg.segread(tmp_path / "o.dcm").number_of_segments == 3
    if DCIODVFY is not None:
        assert dicom_errors(tmp_path / "o.dcm", source=source.grid.frames[0].path) == []
