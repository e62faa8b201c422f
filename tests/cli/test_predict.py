from __future__ import annotations

import gzip
import hashlib
import json
import os

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medsegdiff.cohort.engine import Event
from medsegdiff.cohort.manifest import MANIFEST_NAME
from medsegdiff.data import writer
from medsegdiff.inferers.predictor import BundlePredictor
from medsegdiff.methods import RunSpec, build_segmenter, save_weights
from medsegdiff.notice import RESEARCH_ONLY

ROTATED = np.array([[0, -1, 0, 10], [0.8, 0, 0.6, -7], [0.6, 0, -0.8, 3], [0, 0, 0, 1.0]])


def _names(folder):
    """What lies in a folder beside the manifest of a run."""
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_NAME) if folder.exists() else []


def _report(folder):
    return json.loads((folder / "report.json").read_text())


def _errors(result):
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_a_label_map_lies_on_the_grid_of_its_image(predict, save_image, tmp_path):
    image = nibabel.load(save_image(tmp_path / "in" / "case_1.nii.gz", affine=ROTATED))
    result = predict(tmp_path / "in" / "case_1.nii.gz")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"1 of 1 cases are segmented; all about them is in {tmp_path / 'out' / 'report.json'}\n"
    label = nibabel.load(tmp_path / "out" / "case_1.nii.gz")
    assert label.shape == image.shape
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(label.affine, image.affine)
    assert _names(tmp_path / "out") == ["case_1.nii.gz", "report.json"]


def test_maps_come_where_they_are_asked_for(predict, save_image, tmp_path):
    save_image(tmp_path / "a.nii.gz")
    assert predict(tmp_path / "a.nii.gz", "--probabilities", "--uncertainty", "--draws", 3).exit_code == 0
    out = tmp_path / "out"
    kinds = ["a.nii.gz", "a_entropy.nii.gz", "a_probabilities.nii.gz", "a_variance.nii.gz"]
    assert _names(out) == [*kinds, "report.json"]
    label, entropy, probabilities, variance = (nibabel.load(out / kind).get_fdata() for kind in kinds)
    np.testing.assert_array_equal(label, probabilities.argmax(axis=-1))
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-4)
    assert entropy.shape == variance.shape == label.shape
    assert entropy.min() >= 0 and entropy.max() <= 1 and variance.max() > 0


def test_the_report_tells_what_was_done(predict, save_image, tmp_path, tiny_bundle):
    image = save_image(tmp_path / "a.nii.gz")
    predict(image, "--steps", 2, "--sampler", "ddim", "--seed", 5, "--amp", "off")
    report = _report(tmp_path / "out")
    assert report["notice"] == RESEARCH_ONLY
    weights = tiny_bundle / "models" / "model.pt"
    assert report["model"] == {
        "bundle": "hippocampus",
        "version": json.loads((tiny_bundle / "configs" / "metadata.json").read_text())["version"],
        "members": [
            {
                "weights": "model.pt",
                "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
                "method": "recycling",
                "size": "small",
                "training_data": [
                    {
                        "name": "Medical Segmentation Decathlon, Task04 Hippocampus",
                        "licence": "CC BY-SA 4.0",
                        "url": "http://medicaldecathlon.com",
                    }
                ],
            }
        ],
    }
    assert set(report["versions"]) == {"medsegdiff", "monai", "torch", "python"}
    assert report["settings"]["seed"] == 5
    assert report["settings"]["members"] == [
        {
            "weights": "model.pt",
            "method": "recycling",
            "size": "small",
            "sampler": "ddim",
            "steps": 2,
            "draws": 1,
        }
    ]
    assert (report["done"], report["failed"], report["resumed"], report["retries"]) == (1, 0, 0, 0)
    assert (report["engine"], report["workers"]) == ("in-process", 1)
    assert report["peak_memory_mib"]["process"] > 0
    assert str(tmp_path) not in json.dumps(report)
    [case] = report["cases"]
    assert (case["case"], case["input"], case["status"]) == ("a", "a.nii.gz", "done")
    assert case["outputs"] == {"label": "a.nii.gz"}
    assert list(case["stage_seconds"]) == ["read", "preprocess", "sample", "restore", "write"]
    label = nibabel.load(tmp_path / "out" / "a.nii.gz").get_fdata()
    for number, name in enumerate(("anterior", "posterior"), start=1):
        voxels = int((label == number).sum())
        assert case["volumes"][name] == {"voxels": voxels, "ml": pytest.approx(voxels * 2 / 1000)}


def test_the_same_command_gives_the_same_files(predict, save_image, tmp_path):
    image, contents = save_image(tmp_path / "a.nii.gz"), []
    for seed in (0, 0, 1):
        predict(image, "--probabilities", "--seed", seed)
        contents.append((tmp_path / "out" / "a_probabilities.nii.gz").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_a_case_is_the_same_alone_and_among_others(predict, save_image, tmp_path):
    noise = np.random.default_rng(1).random((9, 8, 7)).astype(np.float32)
    save_image(tmp_path / "in" / "a.nii.gz"), save_image(tmp_path / "in" / "b.nii.gz", array=noise)
    predict(tmp_path / "in", "--probabilities")
    among = (tmp_path / "out" / "b_probabilities.nii.gz").read_bytes()
    predict(tmp_path / "in" / "b.nii.gz", "--probabilities")
    assert (tmp_path / "out" / "b_probabilities.nii.gz").read_bytes() == among


def test_an_ensemble_pools_all_weights_of_the_bundle(predict, save_image, tmp_path):
    result = predict(save_image(tmp_path / "a.nii.gz"), "--ensemble", "--uncertainty")
    assert (result.exit_code, result.stderr) == (0, "")
    methods = [member["method"] for member in _report(tmp_path / "out")["settings"]["members"]]
    assert methods == ["recycling", "supervised"]
    assert "a_variance.nii.gz" in _names(tmp_path / "out")


def test_settings_without_effect_are_named(predict, save_image, tmp_path):
    image = save_image(tmp_path / "a.nii.gz")
    supervised = predict(image, "--method", "supervised", "--draws", 4, "--steps", 2, "--uncertainty")
    assert supervised.exit_code == 0
    assert supervised.stderr.splitlines() == [
        "warning: --steps, --draws have no effect: this network is supervised and segments in one call",
        "warning: no variance is written, since there is one draw only: use --ensemble",
    ]
    assert "a_entropy.nii.gz" in _names(tmp_path / "out") and "a_variance.nii.gz" not in _names(tmp_path / "out")
    single = predict(image, "--uncertainty")
    assert single.stderr == "warning: no variance is written, since there is one draw only: give --draws 2 or more\n"


def _truncated(path):
    whole = gzip.compress(nibabel.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)), np.eye(4)).to_bytes())
    path.write_bytes(whole[: len(whole) // 2])


def _array(array):
    return lambda path: nibabel.save(nibabel.Nifti1Image(np.asarray(array, np.float32), np.eye(4)), path)


def _with(value):
    array = np.random.default_rng(0).random((6, 5, 4))
    array[2, 2, 2] = value
    return _array(array)


BAD_FILES = {
    "missing": (lambda path: None, "there is no such file or folder; give the path of an image"),
    "truncated": (_truncated, "cannot be read (.*); allowed are readable, undamaged files"),
    "text": (lambda path: path.write_text("hello"), "cannot be read (.*); allowed are readable, undamaged files"),
    "an empty axis": (
        _array(np.zeros((5, 4, 0))),
        "got an axis of length zero, shape (5, 4, 0); allowed are axes of 1",
    ),
    "4-D": (_array(np.random.default_rng(0).random((5, 4, 3, 2))), "got 4-D data of shape (5, 4, 3, 2) (2 channels)"),
    "NaN": (_with(np.nan), "got 1 of 120 voxels that are NaN, infinite or beyond float32; allowed are finite numbers"),
    "infinite": (_with(np.inf), "got 1 of 120 voxels that are NaN, infinite or beyond float32"),
    "constant": (_array(np.full((5, 4, 3), 7)), "got the value 7 in every voxel; allowed is an image with contrast"),
    "folder": (lambda path: path.mkdir(), "got a folder without images; allowed are .nii.gz, .nii"),
}


@pytest.mark.parametrize(("make", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_reported_in_a_line_and_the_rest_goes_on(predict, save_image, tmp_path, make, message):
    bad, good = tmp_path / "bad.nii.gz", save_image(tmp_path / "good.nii.gz")
    make(bad)
    result = predict(bad, good)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    start, _, rest = message.partition("(.*)")
    assert line.startswith(f"error: {bad}: {start}") and rest in line
    assert _names(tmp_path / "out") == ["good.nii.gz", "report.json"]
    report = _report(tmp_path / "out")
    assert (report["done"], report["failed"]) == (1, 1)
    assert {case["input"]: case["status"] for case in report["cases"]} == {bad.name: "failed", good.name: "done"}
    [error] = [case["error"] for case in report["cases"] if "error" in case]
    assert error == line.removeprefix("error: ").replace(f"{tmp_path}/", "")


def _foreign_weights(folder):
    spec = RunSpec(
        task="hippocampus",
        method="diffusion",
        size="small",
        spatial_dims=3,
        in_channels=1,
        class_names=["background", "left", "right"],
        roi_size=[8, 8, 8],
        options={"channels": [4, 4], "num_res_blocks": 0, "transformer": False, "norm": "instance"},
    )
    save_weights(build_segmenter(spec).state_dict(), spec, folder / "foreign.pt")
    (folder / "text.pt").write_text("hello")
    spec.write(folder / "text.json")
    (folder / "lonely.pt").touch()


BAD_SETTINGS = {
    "no such method": (["--method", "magic"], "method 'magic' does not exist; use one of supervised, diffusion, recyc"),
    "weights of another method": (["--method", "diffusion"], "was trained with method='recycling', but method='diffu"),
    "weights of another size": (["--size", "paper"], "was trained with size='small', but size='paper' is asked for"),
    "no such size": (["--size", "huge"], "size 'huge' does not exist; use one of small, paper"),
    "no such sampler": (["--sampler", "magic"], "no sampler 'magic'"),
    "no steps": (["--steps", 0], "0"),
    "no draws": (["--draws", 0], "draws is 0; give at least 1"),
    "no such device": (["--device", "abacus"], "device 'abacus' cannot be used on this machine; use auto, cpu"),
    "no such precision": (["--amp", "half"], "amp 'half' does not exist; use one of auto, bf16, fp16, off"),
    "missing weights": (["--weights", "WEIGHTS/none.pt"], "none.pt is no file; give the path of a model.pt"),
    "weights of other classes": (["--weights", "WEIGHTS/foreign.pt"], "class_names=['background', 'left', 'right']"),
    "weights without specification": (["--weights", "WEIGHTS/lonely.pt"], "lonely.json does not exist"),
    "ensemble and method": (["--ensemble", "--method", "supervised"], "an ensemble takes all weights of the bundle"),
    "no bundle": (["--bundle", "WEIGHTS"], "inference.json does not exist; give the folder of a bundle"),
    "no such engine": (["--engine", "magic"], "engine 'magic' does not exist; use one of in-process, ray"),
    "no such format": (
        ["--output-format", "rtstruct"],
        "format 'rtstruct' does not exist; use one of nifti, dicom-seg",
    ),
    "workers in process": (["--workers", 2], "got --workers 2 with the engine in-process, which is one process; add"),
    "a cluster in process": (["--ray-address", "auto"], "got --ray-address auto with the engine in-process, which is"),
    "output that cannot be made": (["--output", "WEIGHTS/text.pt/out"], "results cannot be written there (Not a dir"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_a_wrong_setting_is_one_line_and_writes_nothing(predict, save_image, tmp_path, arguments, message):
    (tmp_path / "weights").mkdir()
    _foreign_weights(tmp_path / "weights")
    arguments = [str(argument).replace("WEIGHTS", str(tmp_path / "weights")) for argument in arguments]
    result = predict(save_image(tmp_path / "a.nii.gz"), *arguments)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert _names(tmp_path / "out") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_without_permission_is_refused(predict, save_image, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    result = predict(save_image(tmp_path / "a.nii.gz"))
    assert result.exit_code == 2 and "Permission denied" in result.stderr


def test_when_writing_fails_nothing_of_the_case_is_left_and_the_rest_goes_on(
    predict, save_image, tmp_path, monkeypatch
):
    for name in ("a", "b"):
        save_image(tmp_path / "in" / f"{name}.nii.gz")
    save, calls = writer._save_nifti, []

    def fail_at_the_second(*args, **options):
        save(*args, **options)
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(writer, "_save_nifti", fail_at_the_second)
    result = predict(tmp_path / "in", "--probabilities")
    assert result.exit_code == 2
    [line] = _errors(result)
    assert "a_probabilities.nii.gz cannot be written" in line and "No space left on device" in line
    assert _names(tmp_path / "out") == ["b.nii.gz", "b_probabilities.nii.gz", "report.json"]


def test_an_image_beyond_the_memory_is_reported_and_the_rest_goes_on(predict, save_image, tmp_path, monkeypatch):
    for name in ("a", "b"):
        save_image(tmp_path / "in" / f"{name}.nii.gz")
    original = BundlePredictor.predict

    def fail_for_a(self, path):
        if path.name.startswith("a"):
            raise torch.cuda.OutOfMemoryError
        return original(self, path)

    monkeypatch.setattr(BundlePredictor, "predict", fail_for_a)
    result = predict(tmp_path / "in")
    assert result.exit_code == 2
    assert "a.nii.gz: the memory does not suffice for this image; try" in result.stderr
    assert _names(tmp_path / "out") == ["b.nii.gz", "report.json"]


def test_an_interrupted_run_leaves_a_report_of_what_is_done(predict, save_image, tmp_path, monkeypatch):
    for name in ("a", "b"):
        save_image(tmp_path / "in" / f"{name}.nii.gz")
    original = BundlePredictor.predict

    def interrupt_at_b(self, path):
        if path.name.startswith("b"):
            raise KeyboardInterrupt
        return original(self, path)

    monkeypatch.setattr(BundlePredictor, "predict", interrupt_at_b)
    assert predict(tmp_path / "in").exit_code != 0
    assert _names(tmp_path / "out") == ["a.nii.gz", "report.json"]
    assert [case["status"] for case in _report(tmp_path / "out")["cases"]] == ["done"]


class DefectiveEngine:
    name, workers = "defective", 1
    closed = False

    def start(self, most):
        weights = {"weights": str(self.weights), "method": "recycling", "size": "small", "sampler": "ddpm"}
        return {"members": [weights], "seed": 0}

    def work(self, cases):
        yield Event(cases[0], "started", "host:1")
        details = {"error": "a.nii.gz: ZeroDivisionError: …", "traceback": "Traceback:\n  line 1"}
        yield Event(cases[0], "failed", "host:1", details=details)

    def close(self):
        self.closed = True


def test_a_defect_on_a_worker_is_shown_and_is_another_exit_code(
    predict, save_image, tmp_path, tiny_bundle, monkeypatch
):
    engine = DefectiveEngine()
    engine.weights = tiny_bundle / "models" / "model.pt"
    monkeypatch.setattr("medsegdiff.cli.predict._make_engine", lambda *args, **options: engine)
    result = predict(save_image(tmp_path / "a.nii.gz"))
    assert result.exit_code == 1 and engine.closed
    assert result.stderr == "Traceback:\n  line 1\nerror: a.nii.gz: ZeroDivisionError: …\n"
    assert _report(tmp_path / "out")["cases"][0]["traceback"] == "Traceback:\n  line 1"


def test_files_of_one_name_get_their_folders_names(predict, save_image, tmp_path):
    for patient in ("p1", "p2"):
        save_image(tmp_path / patient / "t1.nii.gz")
    assert predict(tmp_path / "p1", tmp_path / "p2" / "t1.nii.gz").exit_code == 0
    assert _names(tmp_path / "out") == ["p1_t1.nii.gz", "p2_t1.nii.gz", "report.json"]


def test_an_input_given_twice_is_segmented_once(predict, save_image, tmp_path):
    image = save_image(tmp_path / "in" / "a.nii.gz")
    assert predict(image, tmp_path / "in").exit_code == 0
    assert len(_report(tmp_path / "out")["cases"]) == 1


def test_results_never_replace_an_input(run, save_image, tmp_path, tiny_bundle):
    image = save_image(tmp_path / "a.nii.gz")
    before = image.read_bytes()
    result = run("predict", image, "--bundle", tiny_bundle, "--output", tmp_path)
    assert result.exit_code == 2
    assert f"a result of {image} would replace the input {image}; name another --output folder" in result.stderr
    assert image.read_bytes() == before and _names(tmp_path) == ["a.nii.gz"]


def test_results_never_replace_each_other(predict, save_image, tmp_path):
    for name in ("a", "a_entropy"):
        save_image(tmp_path / "in" / f"{name}.nii.gz")
    result = predict(tmp_path / "in", "--uncertainty")
    assert result.exit_code == 2 and "would replace a result of" in result.stderr
    assert predict(tmp_path / "in").exit_code == 0


def test_a_picture_of_another_dimension_is_refused(predict, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / "a.png")
    result = predict(tmp_path / "a.png")
    assert result.exit_code == 2 and "got 2-D data of shape (8, 8)" in result.stderr


@pytest.mark.real_data
def test_real_images_are_segmented_on_their_grids(predict, data_root, tmp_path):
    folder = data_root / "hippocampus"
    image, series = folder / "imagesTr" / "hippocampus_001.nii.gz", folder / "dicom_study1"
    assert predict(image, series).exit_code == 0
    original, label = nibabel.load(image), nibabel.load(tmp_path / "out" / "hippocampus_001.nii.gz")
    np.testing.assert_array_equal(label.affine, original.affine)
    assert label.shape == original.shape
    assert (tmp_path / "out" / "dicom_study1.nii.gz").is_file()
