"""What every bundle keeps: MONAI's layout and schema, this package's common ids, and that each method trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, load, verify_metadata
from monai.bundle.reference_resolver import ReferenceResolver
from PIL import Image
from typer.testing import CliRunner

import medsegdiff
from medsegdiff.cli.main import app
from medsegdiff.inferers.predictor import BundlePredictor
from medsegdiff.methods import get_method, load_segmenter
from medsegdiff.methods.training_data import in_words, weights_training_data

BUNDLES = ("hippocampus", "brats", "amos_ct", "prostate_mr", "cxr", "monuseg", "muscle_us", "vaihingen")
COPIES = ("train.json", "metadata.json", "logging.conf")
CONFIGS = ("train", "inference", "evaluate")
COMMON_IDS = ("bundle_root", "dataset_dir", "output_dir", "seed", "device", "amp", "method", "size")
TRAINING_IDS = (*COMMON_IDS, "ckpt_dir", "epochs", "resume")


@pytest.fixture(params=BUNDLES)
def bundle(request, repository) -> Path:
    return repository / "bundles" / request.param


@pytest.fixture
def metadata(bundle) -> dict:
    return json.loads((bundle / "metadata.json").read_text())


def read(bundle: Path, *names: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.json") for name in names])
    return parser


def test_no_bundle_is_left_out(repository):
    assert {path.name for path in (repository / "bundles").iterdir() if path.is_dir()} == set(BUNDLES)


def test_the_folder_has_what_monai_looks_for(bundle):
    for name in ("LICENSE", "docs/README.md", *(f"configs/{config}.json" for config in CONFIGS)):
        assert (bundle / name).is_file(), name


def test_the_shipped_weights_load_and_fit_into_the_repository(bundle):
    path = bundle / "models" / "model.pt"
    if not path.is_file():
        pytest.skip(f"{bundle.name} ships no weights: its data do not allow it, or nothing was trained yet")
    for file in path.parent.glob("*.pt"):
        assert file.stat().st_size < 25e6, file
        load_segmenter(file, task=bundle.name)
    network = load(bundle.name, bundle_dir=str(bundle.parent), workflow_type="train", device="cpu")
    state = torch.load(path, weights_only=True)
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key].to(value.dtype)) for key, value in network.state_dict().items())


def test_every_json_parses(bundle):
    for path in bundle.rglob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize("name", COPIES)
def test_the_copy_in_the_root_is_the_one_in_configs(bundle, name):
    assert (bundle / name).read_bytes() == (bundle / "configs" / name).read_bytes()


@pytest.mark.parametrize("files", [*((config,) for config in CONFIGS), ("train", "multi_gpu_train")], ids="+".join)
def test_every_reference_of_a_configuration_leads_somewhere(bundle, files):
    parser = read(bundle, *files)
    parser.parse(reset=True)
    for name, item in parser.ref_resolver.items.items():
        for reference in ReferenceResolver.find_refs_in_config(item.get_config(), name):
            assert reference in parser.ref_resolver.items, f"{name} refers to {reference}"


def test_the_common_ids_are_there_under_their_names(bundle):
    for config in CONFIGS:
        parser = read(bundle, config)
        for name in TRAINING_IDS if config == "train" else COMMON_IDS:
            assert name in parser, f"{config} has no {name}"


def test_the_metadata_keep_the_schema(bundle, tmp_path):
    # With the file there, MONAI does not download the schema that the metadata name.
    schema = tmp_path / "schema.json"
    shutil.copy(Path(__file__).with_name("meta_schema.json"), schema)
    verify_metadata(meta_file=str(bundle / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize("missing", ["version", "network_data_format", "copyright"])
def test_the_schema_sees_what_is_missing(metadata, tmp_path, missing):
    schema, broken = tmp_path / "schema.json", tmp_path / "metadata.json"
    shutil.copy(Path(__file__).with_name("meta_schema.json"), schema)
    broken.write_text(json.dumps({key: value for key, value in metadata.items() if key != missing}))
    with pytest.raises(ValueError, match=missing):
        verify_metadata(meta_file=str(broken), filepath=str(schema))


def test_the_metadata_agree_with_the_package_and_the_configuration(bundle, metadata):
    parser = read(bundle, "train")
    assert metadata["name"] == bundle.name
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["medsegdiff"] == medsegdiff.__version__
    image, pred = (
        metadata["network_data_format"][side][key] for side, key in (("inputs", "image"), ("outputs", "pred"))
    )
    assert image["num_channels"] == len(image["channel_def"]) == parser.get_parsed_content("spec#in_channels")
    assert image["spatial_shape"] == parser.get_parsed_content("roi_size")
    assert list(pred["channel_def"].values()) == parser.get_parsed_content("class_names")


def test_shipped_weights_say_what_they_were_trained_on(bundle, metadata):
    weights = sorted(path for path in (bundle / "models").glob("*.pt"))
    assert ("training_data" in metadata) == bool(weights)
    for path in weights:
        assert "not stated" not in in_words(weights_training_data(path))


def test_training_inference_and_evaluation_agree(bundle):
    train, inference, evaluate = (read(bundle, config) for config in CONFIGS)
    for name in ("class_names", "phantoms"):
        assert evaluate[name] == train[name]
    for other in (inference, evaluate):
        assert other["class_names"] == train["class_names"]
        assert other["network_def#task"] == train["spec#task"] == bundle.name
        channels = other.get_parsed_content("network_def#in_channels")
        assert channels == train.get_parsed_content("spec#in_channels")
        assert other.get_parsed_content("roi_size") == train.get_parsed_content("roi_size")


@pytest.mark.parametrize("method", ["supervised", "recycling", "segdiff", "cdal"])
def test_methods_of_every_family_train_validate_and_sample_on_the_grid_of_the_file(
    bundle, run_bundle, tiny_for, tmp_path, method
):
    dims = len(read(bundle, "train")["phantoms#shape"])
    if bundle.name == "hippocampus" and method == "recycling":
        pytest.skip("see test_hippocampus.py, which trains every method of that family")
    overrides = tiny_for(method, dims=dims)
    run_bundle(bundle / "train.json", method=method, **overrides)
    weights = tmp_path / "ckpt" / f"{method}-small" / "model.pt"
    state = torch.load(weights.with_name("checkpoint.pt"), weights_only=True)
    assert state["spec"]["task"] == bundle.name
    assert ("discriminator" in state["objects"]) == (method == "cdal")
    assert state["objects"]["optimizer"]["param_groups"][0]["betas"] == get_method(method).adam_betas
    network = load_segmenter(weights, method=method, task=bundle.name)
    assert not any("discriminator" in key for key in network.state_dict())

    image = save_image(tmp_path, dims, network.denoiser.image_channels)
    prediction = BundlePredictor(bundle, weights=weights, device="cpu", amp="off").predict(image)
    assert prediction.label.shape == (19, 17, 15)[:dims]
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-4)


def save_image(folder: Path, dims: int, channels: int) -> Path:
    """A picture of 19 by 17 pixels, or a volume of 19 x 17 x 15 voxels."""
    rng = np.random.default_rng(0)
    if dims == 3:
        path = folder / "image.nii.gz"
        shape = (19, 17, 15, channels)[: 3 if channels == 1 else 4]
        nibabel.save(nibabel.Nifti1Image(rng.random(shape, dtype=np.float32), np.eye(4)), path)
        return path
    pixels = rng.integers(0, 255, (17, 19, channels), dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(folder / "image.png")
    return folder / "image.png"


@pytest.mark.parametrize("method", ["segdiff", "cdal"])
def test_volumes_are_segmented_slice_by_slice(repository, run_bundle, tiny_for, tmp_path, method):
    bundle = repository / "bundles" / "hippocampus"
    run_bundle(bundle / "train.json", method=method, dims=2, **tiny_for(method))
    weights = tmp_path / "ckpt" / f"{method}-small" / "model.pt"
    assert load_segmenter(weights).denoiser.spatial_dims == 2
    predictor = BundlePredictor(bundle, weights=weights, device="cpu", amp="off")
    prediction = predictor.predict(save_image(tmp_path, 3, 1))
    assert prediction.label.shape == (19, 17, 15)
    study = ["steps", "--weights", str(weights), "--bundle", str(bundle), "--output", str(tmp_path / "steps.json")]
    refused = CliRunner().invoke(app, study)
    assert refused.exit_code == 2
    assert "the network has 2 spatial axes and the bundle's images 3" in refused.stderr
