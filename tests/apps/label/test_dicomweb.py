"""A real DICOM store with the series of a hospital: regular ones, irregular ones, and what is no image."""

from __future__ import annotations

import json

import highdicom
import numpy as np
import pydicom
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

import httpx
import pydicom_seg
import SimpleITK as sitk

from medsegdiff.data.dicom.folder import read_folder
from medsegdiff.data.reading import read_image
from tests.apps.label.asking import ask, saved
from tests.apps.label.networks import random_bundle
from tests.apps.label.series import ROOT, add, brain, defective, multi_frame, smooth, structures
from tests.data.dicom.segmentations import voxels_of, voxels_on_grid
from tests.data.dicom.validator import DCIODVFY, MISSING, dicom_errors

WORK = "work"  # where the server keeps its own files
WINDOW = (24, 24, 16)
NAMES = [{"name": "anterior", "color": [255, 0, 0]}, {"name": "posterior", "color": [0, 255, 0]}]


@pytest.fixture
def bundle(tmp_path, repository):
    return random_bundle(repository, tmp_path / "bundles", "hippocampus", window=WINDOW)


@pytest.fixture
def hospital(orthanc, tmp_path):
    """Stores a series: adds its datasets; gives its UID."""
    return lambda datasets: add(orthanc, datasets, tmp_path / "series")


@pytest.fixture
def client(start, orthanc, bundle, tmp_path):
    return start(orthanc.dicomweb, bundle, work=tmp_path / WORK)


def _put(client, image, file, *, tag="final", **params):
    upload = {"label": (file.name, file.read_bytes())}
    form = {"params": json.dumps(params)}
    return client.put("/datastore/label", params={"image": image, "tag": tag}, data=form, files=upload)


def _is_one_line(reply):
    text = reply.text
    assert "Doe" not in text and "4711" not in text and "Traceback" not in text
    detail = reply.json()["detail"]
    return "\n" not in detail and f"/{WORK}/" not in detail and "/tmp/" not in detail


def test_all_formats_hold_the_same_label_at_the_same_place(hospital, client, tmp_path):
    image = hospital(brain(1))
    other = hospital(multi_frame())
    assert client.get("/info/").json()["datastore"]["total"] == 2
    for uid in (image, other):
        nrrd, nifti, segmentation = (
            saved(ask(client, uid, output, result_extension=suffix, seed=3), tmp_path / f"label{suffix}")
            for output, suffix in (("image", ".nrrd"), ("image", ".nii.gz"), ("dicom_seg", ".dcm"))
        )
        _, affine = read_folder(tmp_path / "series" / uid)
        expected = read_image(nrrd)
        assert np.unique(expected.array).size > 1
        np.testing.assert_allclose(expected.affine, affine, atol=1e-4)
        np.testing.assert_array_equal(read_image(nifti).array, expected.array)
        np.testing.assert_allclose(read_image(nifti).affine, affine, atol=1e-4)
        assert voxels_on_grid(pydicom.dcmread(segmentation), affine) == voxels_of(expected.array)


def test_a_dicom_segmentation_is_sent_as_what_it_is_and_leaves_nothing_behind(hospital, client, tmp_path, monkeypatch):
    image = hospital(brain(1))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    reply = ask(client, image, "dicom_seg", label_info=NAMES)
    assert reply.headers["content-type"] == "application/dicom"
    assert not list((tmp_path / "scratch").iterdir())
    (tmp_path / "answer.dcm").write_bytes(reply.content)
    data = pydicom.dcmread(tmp_path / "answer.dcm")
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["anterior", "posterior"]
    assert data.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "5366008"
    assert data.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    assert "CC BY-SA 4.0" in data.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert data.PatientName == "Doe^Jane"
    assert ask(client, image, "dicom_seg", label_info=["x"]).status_code == 400


def test_a_corrected_label_comes_back_where_it_was_drawn(hospital, client, orthanc, tmp_path):
    image = hospital(brain(1))
    folder = tmp_path / "series" / image
    voxels, affine = read_folder(folder)
    label = np.zeros(voxels.shape, np.uint8)
    label[2:5, 3:9, 4:6] = 1  # in one corner of an oblique volume
    label[15:17, 12:13, 8:11] = 2
    drawn = sitk.GetImageFromArray(label.transpose())
    shown = saved(client.get("/datastore/image", params={"image": image}), tmp_path / "shown.nii.gz")
    drawn.CopyInformation(sitk.ReadImage(shown))
    sitk.WriteImage(drawn, str(tmp_path / "drawn.nrrd"))
    assert _put(client, image, tmp_path / "drawn.nrrd", label_info=NAMES).status_code == 200
    (stored,) = orthanc.files(Modality="SEG")
    (tmp_path / "stored.dcm").write_bytes(stored)
    data = pydicom.dcmread(tmp_path / "stored.dcm")
    assert voxels_on_grid(data, affine) == voxels_of(label)
    found = pydicom_seg.MultiClassReader().read(data).image
    again = sitk.Resample(found, drawn, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), label.transpose())
    parsed = highdicom.seg.segread(tmp_path / "stored.dcm")
    assert parsed.get_segment_description(1).algorithm_type.value == "MANUAL"
    kept = client.get("/datastore/label", params={"label": image, "tag": "final"})
    np.testing.assert_array_equal(read_image(saved(kept, tmp_path / "kept.nrrd")).array, label)


@pytest.mark.skipif(DCIODVFY is None, reason=MISSING)
def test_a_validator_finds_no_error_in_what_is_answered_or_stored(hospital, client, orthanc, tmp_path):
    image = hospital(brain(1, PatientSex="F"))
    answer = saved(ask(client, image, "dicom_seg"), tmp_path / "answer.dcm")
    label = saved(ask(client, image, result_extension=".nii.gz"), tmp_path / "label.nii.gz")
    for number, names in enumerate((NAMES, [{"name": "head", "model_name": "hippocampus"}])):
        assert _put(client, image, label, label_info=names).status_code == 200
        (tmp_path / f"{number}.dcm").write_bytes(orthanc.files(Modality="SEG")[0])
        assert dicom_errors(tmp_path / f"{number}.dcm") == []
    assert dicom_errors(answer) == []


def test_defective_series_are_each_refused_by_their_defect_and_the_others_stay_usable(hospital, client):
    refused = {hospital(datasets): words for words, datasets in defective().items()}
    sound = hospital(brain(1))
    for image, words in refused.items():
        reply = ask(client, image)
        assert reply.status_code == 422
        assert reply.json()["detail"].startswith(f"series {image}: got ")
        assert words in reply.json()["detail"]
        assert _is_one_line(reply)
    assert ask(client, sound).status_code == 200
    for _ in range(3):  # the defective ones come first by name
        assert client.post("/activelearning/first", json={}).json()["id"] == sound


def test_what_is_no_image_or_of_another_kind_or_unknown_is_refused(hospital, client, orthanc, tmp_path):
    contours, image = hospital(structures()), hospital(brain(1))
    scan = hospital(
        [
            _as_ct(one)
            for one in brain(2, SeriesInstanceUID=f"{ROOT}.22", StudyInstanceUID=f"{ROOT}.99", PatientName="Doe^John")
        ]
    )
    label = saved(ask(client, image, result_extension=".nii.gz"), tmp_path / "label.nii.gz")
    assert _put(client, image, label).status_code == 200
    (tmp_path / "stored.dcm").write_bytes(orthanc.files(Modality="SEG")[0])
    segmentation = str(pydicom.dcmread(tmp_path / "stored.dcm").SeriesInstanceUID)
    assert client.get("/info/").json()["datastore"]["total"] == 2
    for uid, status, words in (
        (contours, 422, "contours (RTSTRUCT)"),
        (segmentation, 422, "a segmentation (SEG)"),
        (scan, 422, "modality CT; hippocampus segments MR"),
        ("1.2.3", 404, "does not exist"),
        ("../..", 400, "no plain name"),
        ("..%2f..", 400, "no plain name"),
        ("/etc/passwd", 400, "no plain name"),
    ):
        reply = ask(client, uid)
        assert (reply.status_code, words in reply.json()["detail"]) == (status, True), reply.text
        assert _is_one_line(reply)
    reply = ask(client, image, model="nothing")
    assert reply.status_code == 404 and _is_one_line(reply)
    assert ask(client, image).status_code == 200


def _as_ct(data):
    data.Modality, data.SOPClassUID = "CT", pydicom.uid.CTImageStorage
    return data


@pytest.mark.parametrize("kind", ["damaged", "text", "bare", "empty"])
def test_a_label_that_cannot_be_used_is_refused_and_not_stored(hospital, client, orthanc, tmp_path, kind):
    image = hospital(brain(1))
    whole = saved(ask(client, image, result_extension=".nii.gz"), tmp_path / "label.nii.gz")
    name, content = {
        "damaged": ("x.nii.gz", whole.read_bytes()[:300]),
        "text": ("x.txt", b"label"),
        "bare": ("x.bin", bytes(17)),
        "empty": ("x.bin", bytes(24 * 20 * 12)),
    }[kind]
    (tmp_path / name).write_bytes(content)
    reply = _put(client, image, tmp_path / name)
    assert reply.status_code == 422
    assert _is_one_line(reply)
    assert not orthanc.files(Modality="SEG")


def test_images_are_not_changed_behind_the_back_of_the_store(hospital, client, orthanc, tmp_path):
    image = hospital(brain(1))
    before = ask(client, image, result_extension=".nii").content
    upload = {"file": ("x.nii.gz", b"anything")}
    for reply in (
        client.put("/datastore/image", params={"image": image}, files=upload),
        client.delete("/datastore/image", params={"id": image}),
        client.delete("/datastore/label", params={"id": image, "tag": "final"}),
    ):
        assert reply.status_code == 400
        assert "DICOM store itself" in reply.json()["detail"]
    assert ask(client, image, result_extension=".nii").content == before


def test_series_of_a_study_make_one_image_and_a_missing_one_is_named(start, hospital, orthanc, repository, tmp_path):
    bundle = random_bundle(repository, tmp_path / "bundles", "brats", channels=4, window=WINDOW)
    whole = [hospital(brain(10 + k, text, study=1)) for k, text in enumerate(("T1", "T1CE", "AX T2", "FLAIR"))]
    torn = [hospital(brain(20 + k, text, study=2)) for k, text in enumerate(("T1", "T1CE", "AX T2"))]
    client = start(orthanc.dicomweb, bundle, work=tmp_path / WORK)
    answers = [ask(client, image, model="brats", result_extension=".nii").content for image in whole]
    assert answers[0] == answers[-1]
    segmentation = saved(ask(client, whole[3], "dicom_seg", model="brats"), tmp_path / "answer.dcm")
    assert pydicom.dcmread(segmentation).ReferencedSeriesSequence[0].SeriesInstanceUID == whole[3]
    reply = ask(client, torn[1], model="brats")
    assert reply.status_code == 422
    assert "no series of flair" in reply.json()["detail"]
    assert _is_one_line(reply)


def test_cases_are_scored_and_served_the_most_uncertain_first(hospital, client):
    for datasets in defective().values():
        hospital(datasets)
    images = [hospital(brain(number)) for number in (1, 2, 4)]
    options = {"params": {"run_sync": True}, "json": {"draws": 2}}
    counts = client.post("/scoring/hippocampus_disagreement", **options).json()
    assert (counts["scored"], counts["unfit"]) == (3, len(defective()))
    assert client.post("/scoring/hippocampus_disagreement", **options).json() == {"scored": 0, "kept": 3, "unfit": 0}
    objects = client.get("/datastore/", params={"output": "all"}).json()["objects"]
    entries = {name: one["image"]["info"]["disagreement"]["hippocampus"] for name, one in objects.items()}
    assert sorted(entries) == sorted(images)
    found = client.post("/activelearning/hippocampus_most_uncertain", json={}).json()
    most = max(entries, key=lambda name: (round(entries[name]["score"], 3), entries[name]["entropy"]))
    assert (found["id"], found["not_scored"]) == (most, 0)
    assert found["StudyInstanceUID"] and "PatientID" not in found


def test_labelled_pairs_are_those_of_the_store(hospital, client, orthanc, start, bundle, tmp_path):
    image = hospital(brain(1))
    label = saved(ask(client, image, result_extension=".nii.gz"), tmp_path / "label.nii.gz")
    assert client.get("/datastore/dataset").status_code == 422
    assert _put(client, image, label).status_code == 200
    expected = read_image(label).array
    elsewhere = start(orthanc.dicomweb, bundle, work=tmp_path / "elsewhere")  # which knows nothing of it yet
    assert elsewhere.get("/datastore/").json()["completed"] == 1
    (pair,) = elsewhere.get("/datastore/", params={"output": "train"}).json()
    np.testing.assert_array_equal(read_image(pair["label"]).array, expected)
    np.testing.assert_array_equal(read_image(pair["image"]).array, smooth(1))
    assert elsewhere.get("/datastore/dataset").status_code == 200
    assert httpx.get(f"{orthanc.address}/series").status_code == 200
