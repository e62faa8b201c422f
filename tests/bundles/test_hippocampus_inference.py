"""The inference configuration of the hippocampus bundle, run as MONAI runs it."""

from __future__ import annotations

import shutil
import sys

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow, run
from monai.utils import set_determinism

from medsegdiff.errors import DataError, find_user_error
from medsegdiff.inferers.predictor import BundlePredictor


@pytest.fixture(autouse=True)
def _keep_process_settings(monkeypatch):
    """A run changes the hook for errors, the import path and determinism of its process; not of this one."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    set_determinism(None)


@pytest.fixture
def bundle(tmp_path, tiny_bundle):
    return shutil.copytree(tiny_bundle, tmp_path / "hippocampus")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    affine = np.array([[0, -1, 0, 10], [0.9, 0, 0, -7], [0, 0, -2, 3], [0, 0, 0, 1.0]])
    for seed, name in enumerate(("a", "b.1")):
        array = np.random.default_rng(seed).random((10, 9 + seed, 8)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    return folder


def _config(bundle):
    return str(bundle / "configs" / "inference.json")


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("run_id", ["inferring", "run"])
def test_a_run_writes_the_label_maps_that_predict_gives(bundle, images, tmp_path, run_id):
    options = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(tmp_path / "out")}
    run(run_id, config_file=_config(bundle), device="cpu", amp="off", logging_file=False, **options)
    assert _names(tmp_path / "out") == ["a.nii.gz", "b.1.nii.gz"]
    predictor = BundlePredictor(bundle, device="cpu", amp="off")
    for name in _names(tmp_path / "out"):
        label, original = nibabel.load(tmp_path / "out" / name), nibabel.load(images / name)
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(label.affine, original.affine)
        np.testing.assert_array_equal(np.asarray(label.dataobj), predictor.predict(images / name).label)


def test_a_run_writes_maps_where_they_are_asked_for(bundle, images, tmp_path):
    options = {"bundle_root": str(bundle), "dataset_dir": str(images / "a.nii.gz"), "output_dir": str(tmp_path / "out")}
    run(
        "run",
        config_file=_config(bundle),
        logging_file=False,
        device="cpu",
        probabilities=True,
        uncertainty=True,
        draws=2,
        **options,
    )
    kinds = ["a.nii.gz", "a_entropy.nii.gz", "a_probabilities.nii.gz", "a_variance.nii.gz"]
    assert _names(tmp_path / "out") == kinds
    prediction = BundlePredictor(bundle, device="cpu", draws=2).predict(images / "a.nii.gz")
    for kind, expected in zip(
        kinds[1:], (prediction.entropy, np.moveaxis(prediction.probabilities, 0, -1), prediction.variance), strict=True
    ):
        np.testing.assert_allclose(nibabel.load(tmp_path / "out" / kind).get_fdata(), expected, atol=1e-6)


def test_all_properties_that_monai_asks_for_are_there_without_data(bundle):
    workflow = ConfigWorkflow(_config(bundle), workflow_type="inference", logging_file=False, bundle_root=str(bundle))
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no images to segment; give --dataset_dir"),
        ({"dataset_dir": "IN", "output_dir": "IN"}, "this is the folder of the images"),
        ({"dataset_dir": "IN/nowhere"}, "there is no such file or folder"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_starts(bundle, images, options, message):
    options = {key: value.replace("IN", str(images)) for key, value in options.items()}
    workflow = ConfigWorkflow(
        _config(bundle),
        workflow_type="inference",
        run_id="inferring",
        logging_file=False,
        bundle_root=str(bundle),
        **options,
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    error = find_user_error(caught.value)
    assert isinstance(error, DataError) and message in str(error)
