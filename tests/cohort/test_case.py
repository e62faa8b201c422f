from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
import torch

import medsegdiff
from medsegdiff.cohort.case import Case, name_cases, segment_case
from medsegdiff.data.dicom.folder import read_folder
from medsegdiff.errors import DataError, SpecError
from tests.data.dicom.segmentations import voxels_on_grid
from tests.data.dicom.synthetic import noise, places, slices, write

KINDS = ("label", "probabilities", "entropy", "variance")
AFFINE = np.diag([2.0, 1.0, 1.0, 1.0])


def _predictor(variance=None, error=None):
    label = np.zeros((4, 3, 2), np.uint8)
    label[0] = 1

    def predict(path):
        if error is not None:
            raise error
        probabilities = np.stack([1 - label, label]).astype(np.float32)
        return SimpleNamespace(
            label=label,
            class_maps=probabilities,
            entropy=probabilities[0],
            variance=variance,
            affine=AFFINE,
            stage_seconds={"sample": 1.23456},
            steps=(5, 4),
        )

    return SimpleNamespace(predict=predict, class_names=["background", "organ"], bundle_dir=Path("organs"))


def test_results_are_called_after_the_case_and_of_the_kind_of_its_image(tmp_path):
    volume, picture = (Case("n", Path(f"a/x.{suffix}"), tmp_path, KINDS) for suffix in ("mha", "PNG"))
    assert [path.name for path in volume.output_paths().values()] == [
        *("n.nii.gz", "n_probabilities.nii.gz", "n_entropy.nii.gz", "n_variance.nii.gz"),
    ]
    assert [path.name for path in picture.output_paths().values()] == [
        *("n.png", "n_probabilities.tif", "n_entropy.tif", "n_variance.tif"),
    ]


def _series_predictor(bundle, **options):
    predictor = _predictor(**options)
    member = {"weights": "/home/jane/model.pt", "method": "recycling", "sampler": "ddim", "steps": 5, "draws": 1}
    predictor.settings = {"members": [member], "seed": 7, "device": "cpu", "amp": "off"}
    predictor.bundle_dir = bundle
    return predictor


def _series(folder):
    images = slices(places([0, 2]), volume=noise(2, shape=(4, 3)), FrameOfReferenceUID="1.2.3")
    return write(folder, images)


def test_a_series_gets_a_dicom_segmentation_with_its_settings_in_it(tmp_path):
    case = Case("n", _series(tmp_path / "in"), tmp_path / "out", ("label", "entropy"), output_format="dicom-seg")
    entry = segment_case(_series_predictor(tmp_path), case)
    assert entry["status"] == "done"
    assert entry["outputs"] == {"label": "n.dcm", "entropy": "n_entropy.nii.gz"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["n.dcm", "n_entropy.nii.gz"]
    data = pydicom.dcmread(tmp_path / "out" / "n.dcm")
    (segment,) = data.SegmentSequence
    assert segment.SegmentLabel == "organ"
    parameters = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert {"recycling", "ddim", "7"} <= set(re.findall(r"[\w+]+", parameters)) and "jane" not in parameters
    # The predicted organ is the first column, of the patient's right side.
    assert voxels_on_grid(data, read_folder(tmp_path / "in")[1])[1] == [[0, y, z] for y in range(3) for z in range(2)]


def test_what_is_no_series_is_refused_before_it_is_segmented(tmp_path):
    case = Case("n", tmp_path / "x.mha", tmp_path / "out", output_format="dicom-seg")
    predictor = _series_predictor(tmp_path, error=AssertionError("it was segmented"))
    entry = segment_case(predictor, case)
    assert entry["status"] == "failed"
    assert entry["error"].startswith(f"{tmp_path / 'x.mha'}: got an image that is no DICOM series; a DICOM-SEG refers")
    assert not (tmp_path / "out").exists()


def test_of_a_case_whose_segmentation_cannot_be_written_nothing_is_left(tmp_path, monkeypatch):
    def fail(dataset, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medsegdiff.data.dicom.segmentation.save_dicom", fail)
    case = Case("n", _series(tmp_path / "in"), tmp_path / "out", ("label", "entropy"), output_format="dicom-seg")
    entry = segment_case(_series_predictor(tmp_path), case)
    assert entry["status"] == "failed" and "n.dcm cannot be written" in entry["error"]
    assert list((tmp_path / "out").iterdir()) == []


def test_an_absolute_case_is_the_same_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Case("n", Path("a.nii"), Path("out")).absolute() == Case("n", tmp_path / "a.nii", tmp_path / "out")


def test_cases_are_named_by_their_files_and_folders(tmp_path):
    paths = [Path("p/t1.nii"), Path("q/t1.nii"), Path("q/t2.nii")]
    assert [case.name for case in name_cases(paths, tmp_path)] == ["p_t1", "q_t1", "t2"]


@pytest.mark.parametrize("kinds", [("label", "entropy"), ("label",)], ids="+".join)
def test_results_that_would_replace_each_other_are_refused(tmp_path, kinds):
    paths = [Path("a.nii"), Path("a_entropy.nii")]
    if kinds == ("label",):
        assert len(name_cases(paths, tmp_path, kinds=kinds)) == 2
        return
    with pytest.raises(DataError, match=r"a result of a_entropy.nii would replace a result of a.nii"):
        name_cases(paths, tmp_path, kinds=kinds)


@pytest.mark.parametrize("draws", [1, 2])
def test_all_results_are_written_but_the_variance_of_one_draw(tmp_path, draws):
    variance = None if draws == 1 else np.full((4, 3, 2), 0.1, np.float32)
    case = Case("n", tmp_path / "x.mha", tmp_path / "out", KINDS)
    entry = segment_case(_predictor(variance), case)
    kinds = KINDS[:3] if draws == 1 else KINDS
    assert entry["status"] == "done"
    assert entry["outputs"] == {kind: case.output_paths()[kind].name for kind in kinds}
    assert sorted(os.listdir(case.folder)) == sorted(entry["outputs"].values())
    assert entry["steps"] == [5, 4]
    assert entry["volumes"] == {"organ": {"voxels": 6, "ml": 0.012}}
    assert list(entry["stage_seconds"]) == ["sample", "write"] and entry["stage_seconds"]["sample"] == 1.235
    assert nibabel.load(case.output_paths()["probabilities"]).shape == (4, 3, 2, 2)
    np.testing.assert_array_equal(nibabel.load(case.output_paths()["label"]).affine, AFFINE)
    notes = {bytes(nibabel.load(path).header["descrip"].item()) for path in case.folder.iterdir()}
    assert notes == {f"research use only; medsegdiff {medsegdiff.__version__} organs".encode()}


def test_pictures_are_called_after_the_case_whatever_the_image(tmp_path):
    for suffix in ("mha", "png"):
        paths = Case("n", Path(f"a/x.{suffix}"), tmp_path, ("label", "picture", "page")).output_paths()
        assert [path.name for path in list(paths.values())[1:]] == ["n_picture.png", "n_page.html"]


def test_key_slices_need_no_viewer(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((4, 3, 2)), AFFINE), tmp_path / "x.nii")
    predictor = _predictor()
    predictor.settings = {"members": [{"method": "fake"}], "seed": 0}
    member = {"weights": "m.pt", "sha256": "0", "method": "fake", "size": "small", "training_data": []}
    predictor.model = {"bundle": "organs", "version": "1", "members": [member]}
    case = Case("n", tmp_path / "x.nii", tmp_path / "out", ("label", "picture"))
    entry = segment_case(predictor, case)
    assert entry["outputs"] == {"label": "n.nii.gz", "picture": "n_picture.png"}
    assert sorted(os.listdir(tmp_path / "out")) == ["n.nii.gz", "n_picture.png"]


def test_only_the_results_that_are_asked_for_are_made(tmp_path):
    """Probabilities on the grid of the image may be made on access, at the cost of much memory."""

    class Lazy(SimpleNamespace):
        @property
        def class_maps(self):
            raise AssertionError

    predictor = _predictor()
    result = predictor.predict(tmp_path)
    fields = {name: value for name, value in vars(result).items() if name != "class_maps"}
    predictor.predict = lambda path: Lazy(**fields)
    assert segment_case(predictor, Case("n", tmp_path / "x.mha", tmp_path / "out"))["status"] == "done"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("x.mha:\n no image"), "x.mha: no image"),
        (SpecError("sampling needs 9 GiB"), "x.mha: sampling needs 9 GiB"),
        (torch.cuda.OutOfMemoryError(), "x.mha: the memory does not suffice for this image; try"),
        (MemoryError(), "x.mha: the memory does not suffice for this image; try"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "x.mha: the memory does not suffice"),
    ],
    ids=["user error", "too little memory for a window", "GPU", "python", "CPU"],
)
def test_what_a_user_can_mend_is_a_failure_in_one_line(tmp_path, error, message):
    entry = segment_case(_predictor(error=error), Case("n", Path("x.mha"), tmp_path))
    assert entry["status"] == "failed" and entry["error"].startswith(message) and "\n" not in entry["error"]
    assert os.listdir(tmp_path) == []


def test_a_defect_is_raised(tmp_path):
    with pytest.raises(RuntimeError, match="index"):
        segment_case(_predictor(error=RuntimeError("index out of range")), Case("n", Path("x.mha"), tmp_path))


def test_files_of_one_modality_each_are_one_case(tmp_path):
    files = [Path(f"d/p_{name}.mha") for name in ("t1", "flair")]
    [case] = name_cases([files], tmp_path, modalities=[["t1"], ["flair"]])
    assert (case.name, case.path, case.others, case.files) == ("p", files[0], (files[1],), tuple(files))
    assert case.absolute().files == tuple(Path.cwd() / file for file in files)
    predictor, seen = _predictor(), []
    result = predictor.predict(files)
    predictor.predict = lambda path: (seen.append(path), result)[1]
    assert segment_case(predictor, replace(case, folder=tmp_path))["status"] == "done"
    assert seen == [tuple(files)]


def test_a_result_that_would_replace_a_file_of_any_modality_is_refused(tmp_path):
    files = [tmp_path / "p_t1.nii.gz", tmp_path / "p.nii.gz"]
    with pytest.raises(DataError, match=r"a result of .*p_t1.nii.gz would replace the input .*p.nii.gz"):
        name_cases([files], tmp_path, modalities=[["t1"], ["p"]])
