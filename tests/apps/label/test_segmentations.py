"""What a DICOM segmentation says of a label that came from a model or from a viewer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import highdicom
import numpy as np
import pydicom
import pytest

from medsegdiff.apps.label.segmentations import SegmentationWriter, segments_of
from medsegdiff.data.dicom.folder import read_folder
from medsegdiff.data.dicom.segments import Code, bundle_segments
from medsegdiff.errors import DataError, SpecError
from tests.apps.label.conftest import save
from tests.data.dicom.segmentations import voxels_of, voxels_on_grid
from tests.data.dicom.synthetic import OBLIQUE, places, slices, write

HIPPOCAMPUS = Code("5366008", "SCT", "Hippocampus")
PARAMS = {
    "label_names": {"anterior": 1, "posterior": 2},
    "bundle": "hippocampus",
    "version": "0.1.0",
    "training_data": "Task04 (CC BY-SA 4.0)",
    "weights": "shipped",
    "steps": [5],
    "draws": 1,
    "seed": 7,
}


@pytest.fixture
def bundles(repository):
    made = []
    for name, classes in (("hippocampus", ["background", "anterior", "posterior"]), ("cxr", ["background", "lungs"])):
        metadata = json.loads((repository / "bundles" / name / "configs" / "metadata.json").read_text())
        made.append(SimpleNamespace(name=name, metadata=metadata, spec=SimpleNamespace(class_names=classes)))
    return made


@pytest.fixture
def series(tmp_path):
    return write(tmp_path / "series", slices(places(np.arange(4) * 2.5, OBLIQUE), orientation=OBLIQUE))


def _written(bundles, series, info, label=None):
    _, affine = read_folder(series)
    if label is None:
        label = np.random.default_rng(0).integers(0, 3, (5, 4, 4)).astype(np.uint8)
    path = SegmentationWriter(bundles).write(save(series.parent / "label.nii.gz", label, affine), series, info)
    try:
        return pydicom.dcmread(path), highdicom.seg.segread(path), voxels_of(label), affine
    finally:
        Path(path).unlink()


def test_a_models_result_is_automatic_and_tells_what_made_it(bundles, series):
    data, parsed, expected, affine = _written(bundles, series, {"model": "hippocampus_candidate_2", "params": PARAMS})
    assert voxels_on_grid(data, affine) == expected
    assert parsed.number_of_segments == 2
    for number, name in ((1, "anterior"), (2, "posterior")):
        segment = parsed.get_segment_description(number)
        assert (segment.segment_label, segment.algorithm_type.value) == (name, "AUTOMATIC")
        assert segment.segmented_property_type.value == HIPPOCAMPUS.value
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("hippocampus", "0.1.0")
        told = algorithm.AlgorithmParameters
        for words in ("hippocampus_candidate_2", "shipped", "Task04 (CC BY-SA 4.0)", "seed=7", "steps=5", "draws=1"):
            assert words in told
        assert "Research use only" in segment.SegmentDescription


def test_names_and_colours_of_the_viewer_come_first(bundles, series):
    info = [{"name": "head", "color": [255, 0, 0], "description": "front"}, {"color": [0, 0, 255, 1.0]}]
    data, *_ = _written(bundles, series, {"model": "hippocampus", "params": PARAMS, "label_info": info})
    head, posterior = data.SegmentSequence
    assert (head.SegmentLabel, posterior.SegmentLabel) == ("head", "posterior")
    assert head.SegmentDescription.startswith("front. ")
    assert head.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"  # nobody knows what a head is
    assert posterior.SegmentedPropertyTypeCodeSequence[0].CodeValue == HIPPOCAMPUS.value
    assert head.RecommendedDisplayCIELabValue != posterior.RecommendedDisplayCIELabValue


@pytest.mark.parametrize(
    ("info", "share"),
    [
        ([{"name": "anterior"}], "MANUAL"),
        (None, "MANUAL"),
        ([{"name": "anterior", "model_name": "hippocampus"}], "SEMIAUTOMATIC"),
        ([{"model_name": "hippocampus_candidate_1"}], "SEMIAUTOMATIC"),
        ([{"model_name": "AIName"}], "MANUAL"),
    ],
)
@pytest.mark.parametrize("claims", [{}, {"model": "hippocampus"}, {"model": "x", "params": {"bundle": "hippocampus"}}])
def test_what_a_person_sends_is_never_automatic(bundles, series, info, share, claims):
    data, *_ = _written(bundles, series, {"label_info": info, **claims})
    assert {segment.SegmentAlgorithmType for segment in data.SegmentSequence} == {share}
    assert ("SegmentAlgorithmName" in data.SegmentSequence[0]) == (share != "MANUAL")
    if share == "MANUAL":
        assert data.SeriesDescription == "drawn in a viewer: research use only"


def test_of_several_bundles_a_class_is_known_by_its_name_only(bundles, series):
    data, *_ = _written(bundles, series, {"label_info": [{"name": "Lungs"}]})
    lungs, other = data.SegmentSequence
    assert lungs.SegmentLabel == "Lungs"
    assert lungs.SegmentedPropertyTypeCodeSequence[0].CodeMeaning != "Tissue"
    assert (other.SegmentLabel, other.SegmentedPropertyTypeCodeSequence[0].CodeMeaning) == ("label 2", "Tissue")


def test_of_the_only_bundle_the_classes_are_known_by_number(bundles, series):
    data, *_ = _written(bundles[:1], series, {})
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["anterior", "posterior"]


def test_codes_of_the_viewer_are_taken():
    liver = {
        "labelID": 1,
        "SegmentLabel": "liver",
        "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": {
            "CodeValue": "91723000",
            "CodingSchemeDesignator": "SCT",
            "CodeMeaning": "Anatomical Structure",
        },
        "SegmentedPropertyTypeCodeSequence": {
            "CodeValue": "10200004",
            "CodingSchemeDesignator": "SCT",
            "CodeMeaning": "Liver",
        },
    }
    (segment,) = segments_of([{"name": "L", "segmentAttribute": liver}])
    assert (segment.label, segment.type) == ("L", Code("10200004", "SCT", "Liver"))


def test_further_classes_are_called_by_their_numbers(bundles):
    own = bundle_segments(bundles[0].metadata, bundles[0].spec.class_names)
    assert [one.label for one in segments_of(None, own=own, least=3)] == ["anterior", "posterior", "label 3"]
    assert len({one.rgb for one in segments_of([], least=8)}) == 8


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("anterior", "no list of objects"),
        (["anterior"], "no list of objects"),
        ([{"color": "red"}], "three numbers from 0 to 255"),
        ([{"color": [0, 0, 256]}], "three numbers from 0 to 255"),
        ([{"color": [1, 2]}], "three numbers from 0 to 255"),
        ([{"segmentAttribute": {"labelID": 1}}], "in the words of dcmqi"),
        ([{"segmentAttribute": 7}], "in the words of dcmqi"),
    ],
)
def test_names_and_colours_that_are_none_are_refused(info, message):
    with pytest.raises(SpecError, match=message):
        segments_of(info)


def test_a_label_on_another_grid_is_refused_and_leaves_no_file(bundles, series, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    with pytest.raises(DataError, match="give one on its grid"):
        _written(bundles, series, {}, np.ones((4, 4, 4), np.uint8))
    assert not list((tmp_path / "scratch").iterdir())
