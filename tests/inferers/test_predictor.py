from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsegdiff.data.reading import read_image
from medsegdiff.errors import DataError, SpecError, WeightsError
from medsegdiff.inferers.predictor import BundlePredictor
from medsegdiff.transforms.way_back import WayBack
from tests.inferers.predicting import (
    INVERTED,
    NO_RESAMPLING,
    PERMUTED,
    RESAMPLING,
    RESTORED,
    SHAPE,
    affine,
    blobs,
    configure,
    dice,
    save,
)


@pytest.fixture(params=[RESTORED, INVERTED], ids=["restored", "inverted"])
def predictor(threshold_bundle, request):
    return BundlePredictor(configure(threshold_bundle, request.param), device="cpu", amp="off")


@pytest.mark.parametrize("affine", NO_RESAMPLING.values(), ids=NO_RESAMPLING)
def test_labels_match_voxel_by_voxel_where_nothing_is_resampled(predictor, tmp_path, affine):
    result = predictor.predict(save(tmp_path / "a.nii.gz", affine))
    image = blobs()
    np.testing.assert_array_equal(result.label, image > image.mean())
    assert result.label.dtype == np.uint8
    np.testing.assert_allclose(result.affine, affine, atol=1e-5)


@pytest.mark.parametrize("affine", RESAMPLING.values(), ids=RESAMPLING)
def test_labels_come_back_from_another_spacing(predictor, tmp_path, affine):
    image = gaussian_filter(blobs(), 1.5)
    result = predictor.predict(save(tmp_path / "a.nii.gz", affine, image))
    assert result.label.shape == image.shape
    assert dice(result.label == 1, image > image.mean()) > 0.9
    np.testing.assert_allclose(result.affine, affine, atol=1e-5)
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-4)


def test_probabilities_come_back_by_linear_interpolation(threshold_bundle, tmp_path, monkeypatch, make_segmenter):
    monkeypatch.setattr("medsegdiff.inferers.loading.load_segmenter", lambda *_a, **_o: make_segmenter(supervised=True))
    path = save(tmp_path / "a.nii.gz", affine(spacing=(0.5, 0.5, 0.5)))
    probabilities = BundlePredictor(threshold_bundle, device="cpu", amp="off").predict(path).probabilities
    # The nearest of voxels twice as far apart would come back twice in a row.
    assert (np.diff(probabilities[1], axis=0) == 0).mean() < 0.05


def test_an_image_larger_than_a_window_is_segmented_by_windows(predictor, tmp_path):
    image = blobs((60, 50, 55))
    result = predictor.predict(save(tmp_path / "a.nii.gz", affine(PERMUTED), image))
    np.testing.assert_array_equal(result.label, image > image.mean())


@pytest.mark.parametrize("suffix", [".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("affine", [NO_RESAMPLING["oblique"], NO_RESAMPLING["permuted and flipped"]])
def test_other_formats_keep_their_grid(predictor, tmp_path, suffix, affine):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(save(tmp_path / "source.nii.gz", affine))), str(path))
    result = predictor.predict(path)
    raw = read_image(path)
    np.testing.assert_array_equal(result.label, raw.array > raw.array.mean())
    np.testing.assert_allclose(result.affine, raw.affine)


def test_a_dicom_series_keeps_its_grid(predictor, tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    volume = np.round(blobs()).astype(np.int16)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(volume.shape[2]):
        image = sitk.GetImageFromArray(volume[:, :, index].T[None])
        tags = {"0008|0060": "MR", "0020|000e": "1.2.3.4.5", "0020|000d": "1.2.3.4.6", "0020|0013": str(index)}
        tags |= {"0008|0018": f"1.2.3.4.5.{index + 1}", "0020|0037": r"1\0\0\0\1\0", "0020|0032": rf"-10\5\{index}"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{volume.shape[2] - index}.dcm"))
        writer.Execute(image)
    result = predictor.predict(folder)
    np.testing.assert_array_equal(result.label, volume > volume.mean())
    np.testing.assert_allclose(result.affine, [[-1, 0, 0, 10], [0, -1, 0, -5], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.real_data
def test_a_real_dicom_series_is_segmented_on_its_grid(predictor, data_root):
    result = predictor.predict(data_root / "hippocampus" / "dicom_study1")
    raw = read_image(data_root / "hippocampus" / "dicom_study1")
    assert dice(result.label == 1, raw.array > raw.array.mean()) > 0.99
    np.testing.assert_allclose(result.affine, raw.affine)


def test_entropy_is_that_of_the_probabilities_on_the_original_grid(predictor, tmp_path):
    result = predictor.predict(save(tmp_path / "a.nii.gz", RESAMPLING["fine"]))
    p = result.probabilities.astype(np.float64)
    np.testing.assert_allclose(result.entropy, -(p * np.log(p)).sum(axis=0) / np.log(3), atol=1e-4)
    assert result.variance is None


def test_a_class_can_be_restored_alone(predictor, tmp_path):
    result = predictor.predict(save(tmp_path / "a.nii.gz", RESAMPLING["thick slices, oblique"]))
    assert result.probabilities.dtype == np.float32 and result.probabilities.shape == (3, *SHAPE)
    for k in range(3):
        np.testing.assert_array_equal(result.probability(k), result.probabilities[k])
    np.testing.assert_array_equal(result.label, result.probabilities.argmax(axis=0))


@pytest.mark.parametrize("affine", RESAMPLING.values(), ids=RESAMPLING)
def test_class_by_class_comes_what_inversion_gives_at_once(
    threshold_bundle, tmp_path, monkeypatch, make_segmenter, affine
):
    monkeypatch.setattr("medsegdiff.inferers.loading.load_segmenter", lambda *_a, **_o: make_segmenter(sharpness=3.0))
    path = save(tmp_path / "a.nii.gz", affine)
    restored, inverted = (
        BundlePredictor(configure(threshold_bundle, chain), device="cpu", amp="off", draws=2).predict(path)
        for chain in (RESTORED, INVERTED)
    )
    assert (restored.label != inverted.label).mean() < 1e-3  # ties, but for rounding
    np.testing.assert_allclose(restored.affine, inverted.affine)
    for name in ("probabilities", "entropy", "variance"):
        np.testing.assert_allclose(getattr(restored, name), getattr(inverted, name), atol=1e-5)


def test_probabilities_are_restored_when_they_are_read(threshold_bundle, tmp_path, monkeypatch):
    predictor = BundlePredictor(configure(threshold_bundle, RESTORED), device="cpu")
    brought_back = []
    original = WayBack.__call__
    monkeypatch.setattr(WayBack, "__call__", lambda self, channel: brought_back.append(1) or original(self, channel))
    result = predictor.predict(save(tmp_path / "a.nii.gz", RESAMPLING["fine"]))
    assert len(brought_back) == 3  # classes, for label and entropy
    result.probability(1)
    assert len(brought_back) == 4
    assert result.probabilities is result.probabilities
    assert len(brought_back) == 7


@pytest.mark.parametrize("draws", [1, 3])
def test_uncertainty_is_left_out_on_request(threshold_bundle, tmp_path, monkeypatch, make_segmenter, draws):
    monkeypatch.setattr("medsegdiff.inferers.loading.load_segmenter", lambda *_a, **_o: make_segmenter(draws=draws))
    path = save(tmp_path / "a.nii.gz", RESAMPLING["fine"])
    bundle = configure(threshold_bundle, RESTORED)
    result = BundlePredictor(bundle, device="cpu", draws=draws, uncertainty=False).predict(path)
    assert result.entropy is None and result.variance is None
    asked = BundlePredictor(bundle, device="cpu", draws=draws).predict(path)
    assert asked.entropy.max() > 0 and (asked.variance is None) == (draws == 1)
    np.testing.assert_array_equal(asked.label, result.label)


@pytest.mark.parametrize("fusion", ["majority", "staple"])
def test_draws_are_fused_on_request(threshold_bundle, tmp_path, monkeypatch, make_segmenter, fusion):
    monkeypatch.setattr("medsegdiff.inferers.loading.load_segmenter", lambda *_a, **_o: make_segmenter())
    bundle = configure(threshold_bundle, RESTORED, roi_size=[24, 28, 20])
    predictor = BundlePredictor(bundle, device="cpu", amp="off", draws=4, fusion=fusion)
    assert predictor.settings["fusion"] == fusion and predictor.settings["fuse_draws"]
    result = predictor.predict(save(tmp_path / "a.nii.gz", affine()))
    mean = BundlePredictor(bundle, device="cpu", amp="off", draws=4).predict(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(result.variance, mean.variance)
    assert result.steps == mean.steps and set(result.steps) == {3}
    assert np.abs(result.probabilities - mean.probabilities).max() > 0.05
    if fusion == "majority":
        votes = result.probabilities * 4
        assert np.abs(votes - votes.round()).max() < 0.01  # but for ties


def test_weights_of_folds_are_pooled(threshold_bundle, tmp_path):
    folds = []
    for fold in range(3):
        folds.append(tmp_path / f"fold{fold}.pt")
        for suffix in (".pt", ".json"):
            shutil.copy(threshold_bundle / "models" / f"model{suffix}", folds[-1].with_suffix(suffix))
    predictor = BundlePredictor(configure(threshold_bundle, RESTORED), weights=folds, device="cpu")
    assert [member["weights"] for member in predictor.settings["members"]] == [str(fold) for fold in folds]
    assert predictor.settings["fusion"] == "mean"
    image = blobs()
    result = predictor.predict(save(tmp_path / "a.nii.gz", NO_RESAMPLING["permuted"]))
    np.testing.assert_array_equal(result.label, image > image.mean())


def test_every_stage_is_timed(predictor, tmp_path):
    seconds = predictor.predict(save(tmp_path / "a.nii.gz", affine())).stage_seconds
    assert list(seconds) == ["read", "preprocess", "sample", "restore"]
    assert all(value >= 0 for value in seconds.values())


def test_two_predictions_of_a_file_are_the_same(threshold_bundle, tmp_path, monkeypatch, make_segmenter):
    monkeypatch.setattr(
        "medsegdiff.inferers.loading.load_segmenter", lambda *_a, **options: make_segmenter(seed=options["seed"])
    )
    path = save(tmp_path / "a.nii.gz", RESAMPLING["fine"])
    first, again, other = (
        BundlePredictor(threshold_bundle, device="cpu", draws=3, steps=2, seed=seed).predict(path) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    np.testing.assert_array_equal(again.variance, first.variance)
    assert first.variance.shape == first.label.shape and first.variance.max() > 0
    assert np.abs(other.probabilities - first.probabilities).max() > 1e-3


def test_pictures_keep_their_grid_too(predictor, threshold_bundle, tmp_path, monkeypatch, make_segmenter):
    config_path = threshold_bundle / "configs" / "inference.json"
    config = json.loads(config_path.read_text())
    config["roi_size"] = [48, 64]
    config["network_def"]["spatial_dims"] = 2
    by_name = {t["_target_"]: t for t in config["preprocessing"]["transforms"]}
    by_name["LoadImaged"]["reader"]["spatial_dims"] = 2
    config["preprocessing"]["transforms"] = [
        t for t in config["preprocessing"]["transforms"] if t["_target_"] not in ("Orientationd", "Spacingd")
    ]
    config_path.write_text(json.dumps(config))
    monkeypatch.setattr(
        "medsegdiff.inferers.loading.load_segmenter",
        lambda *_a, **_o: make_segmenter(supervised=True, sharpness=1e4, spatial_dims=2),
    )
    picture = np.clip(blobs((40, 30)) / 2, 0, 255).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    result = BundlePredictor(threshold_bundle, device="cpu").predict(tmp_path / "a.png")
    brighter = (picture > picture.mean()).T
    np.testing.assert_array_equal(result.label, brighter)
    np.testing.assert_array_equal(result.affine, np.eye(4))


def test_settings_tell_what_is_used(threshold_bundle, monkeypatch, make_segmenter):
    monkeypatch.setattr("medsegdiff.inferers.loading.load_segmenter", lambda *_a, **_o: make_segmenter())
    settings = BundlePredictor(
        threshold_bundle, device="cpu", amp="off", seed=7, steps=2, sampler="ddim", draws=4
    ).settings
    [member] = settings.pop("members")
    assert settings == {"seed": 7, "device": "cpu", "amp": "off"}
    assert (member["sampler"], member["steps"], member["draws"]) == ("ddim", 2, 4)
    assert member["weights"].endswith("model.pt")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full(SHAPE, np.nan, np.float32), "NaN, infinite or beyond float32; allowed are finite numbers"),
        (np.full(SHAPE, 3.0, np.float32), "got the value 3 in every voxel; allowed is an image with contrast"),
        (np.zeros((*SHAPE, 2), np.float32), "allowed is a 3-D image with 1 channel"),
        (np.zeros((5, 4), np.float32), "got 2-D data"),
        (np.zeros((5, 4, 0), np.float32), "got an axis of length zero"),
    ],
    ids=["nan", "constant", "4-D", "2-D", "empty"],
)
def test_images_that_a_network_cannot_work_with_are_refused(predictor, tmp_path, array, message):
    with pytest.raises(DataError, match=message) as caught:
        predictor.predict(save(tmp_path / "a.nii.gz", np.eye(4), array))
    assert str(caught.value).startswith(str(tmp_path / "a.nii.gz"))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"inference\.json does not exist; give the folder of a bundle"):
        BundlePredictor(tmp_path)


def test_a_broken_configuration_is_refused(threshold_bundle):
    (threshold_bundle / "configs" / "inference.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a configuration"):
        BundlePredictor(threshold_bundle)


def _edit_config(bundle, change):
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_setting_that_the_bundle_does_not_have_is_refused(threshold_bundle):
    _edit_config(threshold_bundle, lambda config: config.pop("draws"))
    with pytest.raises(SpecError, match="has no id 'draws' to set to 3"):
        BundlePredictor(threshold_bundle, draws=3)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (INVERTED[1:], "must make one label map"),
        ([], "must make one label map"),
        ([INVERTED[0], INVERTED[3]], "gives no probabilities; take medsegdiff"),
    ],
)
def test_a_postprocessing_without_probabilities_on_the_grid_is_refused(threshold_bundle, tmp_path, chain, message):
    predictor = BundlePredictor(configure(threshold_bundle, chain), device="cpu")
    with pytest.raises(SpecError, match=message):
        predictor.predict(save(tmp_path / "a.nii.gz", affine()))


def test_an_inferer_that_cannot_sample_is_refused(threshold_bundle):
    _edit_config(threshold_bundle, lambda config: config.update(inferer={"_target_": "SimpleInferer"}))
    with pytest.raises(SpecError, match="a SimpleInferer, cannot sample"):
        BundlePredictor(threshold_bundle)


@pytest.mark.parametrize("other", [{"weights": "w.pt"}, {"method": "recycling"}])
def test_an_ensemble_takes_no_choice_of_weights(threshold_bundle, other):
    with pytest.raises(SpecError, match="an ensemble takes all weights of the bundle"):
        BundlePredictor(threshold_bundle, ensemble=True, **other)


def test_an_ensemble_needs_two_weights_files_and_then_pools_them(threshold_bundle, tmp_path):
    with pytest.raises(WeightsError, match="holds 1 weights files; an ensemble needs two or more"):
        BundlePredictor(threshold_bundle, ensemble=True)
    for suffix in (".pt", ".json"):
        shutil.copy(threshold_bundle / "models" / f"model{suffix}", threshold_bundle / "models" / f"other{suffix}")
    predictor = BundlePredictor(threshold_bundle, ensemble=True, device="cpu")
    assert len(predictor.settings["members"]) == 2
    result = predictor.predict(save(tmp_path / "a.nii.gz", affine()))
    assert result.variance.max() < 1e-6  # two draws that agree
    assert result.steps == ()  # of supervised networks


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_label_of_the_cpu(threshold_bundle, tmp_path):
    path = save(tmp_path / "a.nii.gz", RESAMPLING["fine"])
    labels = [BundlePredictor(threshold_bundle, device=d, amp="off").predict(path).label for d in ("cpu", "cuda")]
    assert (labels[0] != labels[1]).mean() < 1e-3
