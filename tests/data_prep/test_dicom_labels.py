from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pytest

from data_prep.dicom import convert, main
from data_prep.dicom_labels import LabelClass
from medsegdiff.data.datalist import all_cases
from medsegdiff.errors import SpecError
from tests.data.dicom.segmentations import FRAME_OF_REFERENCE, segmentation, structure_set
from tests.data.dicom.synthetic import SERIES, STUDY, places, slices, write

HEIGHTS = np.arange(4) * 2.5
POSITIONS = places(HEIGHTS)
VOLUME = "case_001_s002_t2.nii.gz"


def _images(number=2, description="T2", **attributes):
    about = {"SeriesNumber": number, "SeriesDescription": description, "SeriesInstanceUID": f"{SERIES}.{number}"}
    return slices(POSITIONS, **{"FrameOfReferenceUID": FRAME_OF_REFERENCE, **about, **attributes})


def _labels(*boxes, names=("liver", "tumour"), number=8, series=f"{SERIES}.2", **attributes):
    """A segmentation of boxes, each (segment, slice of columns), in all slices and rows."""
    planes = np.zeros((4 * len(boxes), 4, 5))
    for index, (_, columns) in enumerate(boxes):
        planes[4 * index : 4 * index + 4, :, columns] = 1
    return segmentation(
        planes,
        np.tile(POSITIONS, (len(boxes), 1)),
        [segment for segment, _ in boxes for _ in POSITIONS],
        names=names,
        series=series,
        SeriesNumber=number,
        **{"SeriesInstanceUID": f"{SERIES}.{number}", **attributes},
    )


def _study(folder, *others):
    write(folder / "images", _images())
    write(folder / "labels", list(others))
    return folder


def _label(output, name=VOLUME):
    return np.asarray(nibabel.load(output / "labelsTr" / name).dataobj)


def _read(output, name="series.json"):
    return json.loads((output / name).read_text())


def _reasons(output):
    index = _read(output)
    return {kind: [entry["reason"] for entry in index[kind]] for kind in ("refused", "skipped")}


def test_a_series_with_its_segmentation_is_a_pair(tmp_path):
    study = _study(tmp_path / "in", _labels((1, slice(0, 2)), (2, slice(4, 5))))
    result = convert([study], tmp_path / "out")
    assert result.is_whole and not result.skipped
    label = _label(tmp_path / "out")
    assert label.dtype == np.uint8
    assert [np.unique(label[column]).tolist() for column in range(5)] == [[1], [1], [0], [0], [2]]
    image = nibabel.load(tmp_path / "out" / "imagesTr" / VOLUME)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "out" / "labelsTr" / VOLUME).affine, image.affine)
    assert not (tmp_path / "out" / VOLUME).exists()
    (entry,) = _read(tmp_path / "out")["converted"]
    assert (entry["file"], entry["label"]) == (f"imagesTr/{VOLUME}", f"labelsTr/{VOLUME}")
    assert entry["voxels"] == {"liver": 2 * 16, "tumour": 16}
    (labels,) = _read(tmp_path / "out")["labels"]
    assert (labels["name"], labels["volumes"]) == ("case_001_s008_seg", ["case_001_s002_t2"])


def test_the_pairs_are_a_data_set_to_train_on(tmp_path):
    convert([_study(tmp_path / "in", _labels((1, slice(0, 2)), (2, slice(4, 5))))], tmp_path / "out")
    content = _read(tmp_path / "out", "dataset.json")
    assert content["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    assert (content["modality"], content["numTraining"]) == ({"0": "MR"}, 1)
    (case,) = all_cases(tmp_path / "out")
    assert case["image"] == str(tmp_path / "out" / "imagesTr" / VOLUME)
    assert case["label"] == str(tmp_path / "out" / "labelsTr" / VOLUME)


def test_contours_are_labels_too_and_files_are_put_together(tmp_path):
    square = POSITIONS[2] + np.array([(-0.2, -0.2, 0), (0.7, -0.2, 0), (0.7, 3, 0), (-0.2, 3, 0)])
    study = _study(tmp_path / "in", structure_set({"duct": [square]}, series=f"{SERIES}.2"), _labels((1, slice(3, 5))))
    convert([study], tmp_path / "out")
    label, names = _label(tmp_path / "out"), _read(tmp_path / "out", "dataset.json")["labels"]
    duct, liver = (next(int(k) for k, name in names.items() if name == wanted) for wanted in ("duct", "liver"))
    assert (label[3:] == liver).all()
    assert (label[:2, :, 2] == duct).all() and (label[:2, :, [0, 1, 3]] == 0).all()


def test_volumes_without_labels_stay_beside_the_pairs(tmp_path):
    study = _study(tmp_path / "in", _labels((1, slice(0, 2))))
    write(study / "t1", _images(3, "T1"))
    convert([study], tmp_path / "out")
    assert (tmp_path / "out" / "case_001_s003_t1.nii.gz").is_file()
    assert [path.name for path in (tmp_path / "out" / "imagesTr").iterdir()] == [VOLUME]


def test_classes_are_numbered_as_they_are_named_and_later_ones_lie_over_earlier(tmp_path):
    study = _study(tmp_path / "in", _labels((1, slice(0, 4)), (2, slice(2, 5)), names=("Liver", "GTV p")))
    for name, labels in (("a", ["liver", "tumour=gtv*,lesion"]), ("b", ["tumour=gtv*,lesion", "liver"])):
        convert([study], tmp_path / name, labels=labels)
    assert _label(tmp_path / "a")[:, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert _label(tmp_path / "b")[:, 0, 0].tolist() == [2, 2, 2, 2, 1]
    assert list(_read(tmp_path / "b", "dataset.json")["labels"].values()) == ["background", "tumour", "liver"]


def test_what_is_not_among_the_classes_is_left_out(tmp_path):
    study = _study(tmp_path / "in", _labels((1, slice(0, 4)), (2, slice(2, 5))))
    convert([study], tmp_path / "a", labels=["tumour"])
    assert _label(tmp_path / "a")[:, 0, 0].tolist() == [0, 0, 1, 1, 1]
    convert([study], tmp_path / "b", labels=["spleen"])
    assert (tmp_path / "b" / VOLUME).is_file() and not (tmp_path / "b" / "dataset.json").exists()
    assert _reasons(tmp_path / "b") == {"refused": [], "skipped": ["labels that were not asked for"]}


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (
            [_labels((1, slice(0, 3)), (2, slice(2, 5)))],
            "got 'liver' and 'tumour', which share 16 voxels; allowed is one class a voxel; name classes with --label",
        ),
        ([_labels((1, slice(0, 1))), _labels((1, slice(2, 3)), number=9)], "got 2 structures 'liver'; allowed is one"),
        ([_labels((1, slice(0, 3)), series="1.2.3")], "refers to a series that is not among the sources; give that"),
        ([_labels((1, slice(0, 3)), series=None, FrameOfReferenceUID="1.2.3")], "refers to no series, and its study"),
        (
            [_labels((1, slice(0, 3)), series=None, StudyInstanceUID="1.2")],
            "refers to no series, and its study has not",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_refused_and_the_image_is_kept(tmp_path, capsys, labels, reason):
    study = _study(tmp_path / "in", *labels)
    assert main([str(study), "--output", str(tmp_path / "out")]) == 2
    assert (tmp_path / "out" / VOLUME).is_file() and not (tmp_path / "out" / "labelsTr").exists()
    refused = _reasons(tmp_path / "out")["refused"]
    assert len(refused) == len(labels) and all(line.startswith(reason) for line in refused)
    assert re.search(rf"  refused case_00[12]_s008_seg: {re.escape(reason)}", capsys.readouterr().out)


def test_damaged_labels_are_refused_and_the_image_is_kept(tmp_path):
    data = _labels((1, slice(0, 3)))
    del data.SegmentSequence
    result = convert([_study(tmp_path / "in", data)], tmp_path / "out")
    assert [item.name for item in result.refused] == ["case_001_s008_seg"]
    assert (tmp_path / "out" / VOLUME).is_file()


def test_labels_that_name_no_series_belong_to_the_one_of_their_study(tmp_path):
    study = _study(tmp_path / "in", _labels((1, slice(0, 3)), series=None, StudyInstanceUID=STUDY))
    assert convert([study], tmp_path / "a").is_whole
    assert (_label(tmp_path / "a")[:3] == 1).all()
    write(study / "t1", _images(3, "T1"))
    assert not convert([study], tmp_path / "b").is_whole
    assert _reasons(tmp_path / "b")["refused"][0].startswith("refers to no series, and its study has not exactly one")


def test_labels_of_a_series_that_is_not_asked_for_are_skipped(tmp_path):
    study = _study(tmp_path / "in", _labels((1, slice(0, 3))))
    write(study / "t1", _images(3, "T1"))
    assert convert([study], tmp_path / "out", series=["t1"]).is_whole
    assert "labels of a series that is not converted" in _reasons(tmp_path / "out")["skipped"]
    assert (tmp_path / "out" / "case_001_s003_t1.nii.gz").is_file()


def test_all_volumes_of_a_series_have_its_labels(tmp_path):
    echoes = [*_images(EchoNumbers=1), *_images(EchoNumbers=2)]
    for number, image in enumerate(echoes):
        image.SOPInstanceUID = f"{SERIES}.2.{number + 1}"
    write(tmp_path / "in", [*echoes, _labels((1, slice(0, 3)))])
    assert convert([tmp_path / "in"], tmp_path / "out").is_whole
    assert len(list((tmp_path / "out" / "labelsTr").iterdir())) == 2


def test_names_of_structures_name_no_patient(tmp_path, capfd):
    study = _study(tmp_path / "in", _labels((1, slice(0, 3)), (2, slice(2, 5)), names=("Doe liver", "tumour MRN-4711")))
    main([str(study), "--output", str(tmp_path / "a")])
    main([str(study), "--list"])
    printed = capfd.readouterr()
    texts = [printed.out, printed.err, (tmp_path / "a" / "series.json").read_text()]
    main([str(study), "--output", str(tmp_path / "b"), "--label", "liver=*liver"])
    texts += [path.read_text() for path in (tmp_path / "b").glob("*.json")]
    assert "labels: liver, tumour" in printed.out
    assert not any(re.search(r"doe|4711", text, re.IGNORECASE) for text in texts)


@pytest.mark.parametrize("text", ["", "=liver", "liver=", "a=b,,c", "Background", "background=x"])
def test_a_label_names_a_class_and_structures(text):
    with pytest.raises(SpecError, match=re.escape(f"got the label {text!r}; allowed are NAME and")):
        LabelClass.parse(text)


@pytest.mark.real_data
def test_real_contours_with_another_frame_of_reference_are_those_of_the_series_they_name(data_root, tmp_path):
    mock = data_root / "odd" / "rtstruct" / "mock_data"
    convert([mock / f"{name}.dcm" for name in ("ct_1", "ct_2", "rt")], tmp_path)
    label = nibabel.load(tmp_path / "labelsTr" / "case_001_s003_ct.nii.gz")
    index = np.argwhere(np.asarray(label.dataobj)) @ label.affine[:3, :3].T + label.affine[:3, 3]
    # A square from -51 to -27 mm, LPS, with a hole.
    np.testing.assert_allclose(index.min(axis=0)[:2], (27, 27), atol=0.5)
    np.testing.assert_allclose(index.max(axis=0)[:2], (51, 51), atol=0.5)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["invalid_reference_rt", "non_existent_reference_rt"])
def test_real_contours_with_broken_references_are_refused_in_one_line(data_root, tmp_path, name):
    mock = data_root / "odd" / "rtstruct" / "mock_data"
    (refused,) = convert([mock / f"{file}.dcm" for file in ("ct_1", "ct_2", name)], tmp_path).refused
    assert refused.refused.startswith(f"{name}.dcm: got a contour of 'ROI-1' outside of its series; take the series")
    assert not (tmp_path / "labelsTr").exists()
