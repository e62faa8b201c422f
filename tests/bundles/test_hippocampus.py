"""The bundle `hippocampus` keeps the contract of a MONAI bundle, and trains by every method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, load, verify_net_in_out
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medsegdiff.errors import USER_ERROR_EXIT_CODE, find_user_error
from medsegdiff.methods import load_segmenter

NAME = "hippocampus"
METHODS = (
    "supervised",
    "diffusion",
    "recycling",
    "recycling_next",
    "self_conditioning",
    "self_conditioning_next",
)


@pytest.fixture(scope="module")
def bundle(repository) -> Path:
    return repository / "bundles" / NAME


@pytest.mark.parametrize("config", ["train"])
@pytest.mark.parametrize("method", ["supervised", "recycling"])
def test_the_network_takes_and_gives_what_the_metadata_say(bundle, tiny, config, method):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "metadata.json"),
        config_file=str(bundle / "configs" / f"{config}.json"),
        device="cpu",
        network_options=tiny["network_options"],
        amp="off",
        steps=2,
        method=method,
    )


def test_it_loads_with_its_weights(make_tiny_bundle, monkeypatch):
    folder = make_tiny_bundle(NAME, weights=True)
    expected = torch.load(folder / "models" / "model.pt", weights_only=True)
    network = load(NAME, bundle_dir=str(folder.parent), workflow_type="train", device="cpu")
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key].to(value.dtype)), key

    monkeypatch.chdir(folder)  # the bundle in the working folder is the one that is meant
    ready = load(NAME, bundle_dir=str(folder.parent), workflow_type="inference", device="cpu")
    ready.amp = "off"
    image = torch.randn(1, 1, 16, 16, 16)
    probabilities = ready(image)
    assert probabilities.shape == (1, 3, 16, 16, 16)
    torch.testing.assert_close(probabilities, network.eval()(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_the_properties_are_where_monai_looks_for_them(make_tiny_bundle, tiny, tmp_path, kind):
    folder = make_tiny_bundle(NAME, weights=True)
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / "image.nii.gz")
    overrides = {
        "train": {**tiny, "ckpt_dir": str(tmp_path / "ckpt")},
        "inference": {"dataset_dir": str(tmp_path), "device": "cpu"},
    }
    workflow = ConfigWorkflow(
        config_file=str(folder / "configs" / f"{kind}.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(folder),
        **overrides[kind],
    )
    workflow.initialize()
    # Required ones that are missing, and optional ones under another id.
    assert workflow.check_properties() == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_validates_and_writes_a_checkpoint(bundle, run_bundle, tmp_path, method):
    shipped = sorted((bundle / "models").iterdir())
    workflow = run_bundle(bundle / "train.json", method=method)
    run_dir = tmp_path / "ckpt" / f"{method}-small"
    assert {"checkpoint.pt", "model.pt", "model.json", "events"} == {path.name for path in run_dir.iterdir()}
    state = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["iteration"]) == (1, 2)
    assert state["spec"]["method"] == method
    assert state["spec"]["split"] == "phantoms"
    assert 0 <= state["objects"]["validation"]["best"]["ddpm"] <= 1
    network = load_segmenter(run_dir / "model.pt", method=method, task=NAME)
    assert network.supervised == (method == "supervised")
    assert sorted((bundle / "models").iterdir()) == shipped
    assert workflow.trainer.state.epoch == 1


def test_it_is_the_averaged_network_that_is_validated_and_kept(bundle, run_bundle, tmp_path):
    workflow = run_bundle(bundle / "train.json", epochs=2, learning_rate=0.1)
    average = workflow.parser.get_parsed_content("ema").module
    assert workflow.evaluator.network is average
    assert workflow.trainer.segmenter is not average
    kept = load_segmenter(tmp_path / "ckpt" / "recycling-small" / "model.pt")
    state = torch.load(tmp_path / "ckpt" / "recycling-small" / "checkpoint.pt", weights_only=True)
    if state["objects"]["validation"]["best"]["ddpm"] == workflow.evaluator.state.metrics["val_mean_dice"]:
        for key, value in kept.state_dict().items():
            torch.testing.assert_close(value, average.state_dict()[key].half().float())
    assert any(
        not torch.equal(value, workflow.trainer.segmenter.state_dict()[key])
        for key, value in average.state_dict().items()
    )


def test_a_run_is_resumed_from_the_command(bundle, run_bundle, tmp_path):
    run_bundle(bundle / "train.json", epochs=1)
    workflow = run_bundle(bundle / "train.json", epochs=2, resume="true")
    state = torch.load(tmp_path / "ckpt" / "recycling-small" / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 2
    assert workflow.trainer.state.iteration == 4


def test_further_samplers_and_the_early_stop_are_a_setting_away(bundle, run_bundle, tmp_path):
    run_bundle(bundle / "train.json", val_samplers=["ddim"], patience=1, first_pass="ema", accumulation_steps=2)
    names = {path.name for path in (tmp_path / "ckpt" / "recycling-small").glob("model*")}
    assert names == {"model.pt", "model.json", "model_ddim.pt", "model_ddim.json"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dataset_dir": "{tmp}/missing"}, "there is no such folder"),
        ({"dataset_dir": "{tmp}"}, "got no pair of image and label"),
        ({"method": "guess"}, "method 'guess' does not exist; use one of supervised, diffusion,"),
        ({"size": "huge"}, "size 'huge' does not exist"),
        ({"amp": "fp16"}, "amp 'fp16' was asked for on a CPU"),
        ({"ckpt_dir": "{tmp}/file/ckpt"}, "results cannot be written there"),
        ({"time_sampler": "often"}, "time sampler 'often' does not exist"),
        ({"network_options": {"width": 3}}, "do not fit the recycling U-Net"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(bundle, run_bundle, tmp_path, capsys, overrides, message):
    (tmp_path / "file").write_text("")
    filled = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in overrides.items()}
    with pytest.raises(Exception) as caught:  # noqa: PT011  MONAI wraps the error into others
        run_bundle(bundle / "train.json", **filled)
    assert message in str(find_user_error(caught.value))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        sys.excepthook(caught.type, caught.value, caught.tb)  # what the interpreter would do now
    assert exit_.value.code == USER_ERROR_EXIT_CODE
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    # Nothing is written before the settings are known to be good; TensorBoard's file alone comes with the trainer.
    files = [path.name for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("events.")]
    assert files == ["file"]


def test_processes_share_out_the_validation(bundle):
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f"{name}.json") for name in ("train", "multi_gpu_train")])
    assert parser["validate#dataloader#sampler"] == "@validate#sampler"
    # No case twice: it would count twice in the mean.
    assert parser["validate#sampler#even_divisible"] is False


@pytest.mark.slow
def test_the_command_refuses_an_unknown_method(repository, tmp_path):
    result = run_module(
        repository,
        *("monai.bundle", "run", "training", "--config_file", f"bundles/{NAME}/train.json"),
        *("--ckpt_dir", str(tmp_path), "--method", "guess"),
    )
    assert result.returncode == USER_ERROR_EXIT_CODE
    errors = [line for line in result.stderr.splitlines() if "guess" in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: method 'guess' does not exist; use one of supervised, diffusion,")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["recycling", "cdal"])
def test_two_processes_train_as_one(repository, bundle, run_bundle, tmp_path, tiny_for, phantom_cache, method):
    # Plain gradient descent: Adam makes steps of full size from gradients that are nothing but rounding.
    overrides = {
        **tiny_for(method),
        "method": method,
        "datalists#num_phantoms": 21,  # 15 for training, which divide neither by the processes nor by the batch
        "epochs": 2,
        "patience": 3,
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
    }
    if method == "cdal":
        overrides["adversarial"]["discriminator"] |= {"stddev_group": 1}
        overrides["adversarial"]["discriminator_learning_rate"] = 1e-6  # of Adam, see above
    config = tmp_path / "tiny.json"
    config.write_text(json.dumps({key: value for key, value in overrides.items() if key != "device"}))
    files = [bundle / "train.json", bundle / "configs" / "multi_gpu_train.json", config]
    result = run_module(
        repository,
        *("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"),
        *("monai.bundle", "run", "training", "--config_file", str([str(file) for file in files])),
        *("--device", "cpu", "--batch_size", "2", "--ckpt_dir", str(tmp_path / "two")),
        TMPDIR=str(phantom_cache),
    )
    assert result.returncode == 0, result.stderr
    run_bundle(bundle / "train.json", **overrides, batch_size=4, ckpt_dir=str(tmp_path / "one"))

    one, two = (
        torch.load(tmp_path / n / f"{method}-small" / "checkpoint.pt", weights_only=True) for n in ("one", "two")
    )
    assert (one["epoch"], one["iteration"]) == (two["epoch"], two["iteration"]) == (2, 6)
    for name in ("network", "ema", "time_sampler" if method == "recycling" else "discriminator"):
        for key, value in one["objects"][name].items():
            torch.testing.assert_close(two["objects"][name][key], value, rtol=1e-5, atol=1e-6)
    assert two["objects"]["validation"]["best"] == pytest.approx(one["objects"]["validation"]["best"], abs=1e-4)
    assert (
        two["objects"]["validation"]["early_stop"]["counter"] == one["objects"]["validation"]["early_stop"]["counter"]
    )
    # Only the first process logs and draws; what it logs is the loss of all.
    assert result.stdout.count("epoch 2 of 2: val_mean_dice") == 1
    writers = {path.name.split(".")[-2] for path in (tmp_path / "two").rglob("events.out*")}
    assert len(writers) == 1
    assert logged_losses(tmp_path / "two") == pytest.approx(logged_losses(tmp_path / "one"), rel=1e-4)


def logged_losses(folder: Path) -> list[float]:
    """The loss of every optimiser step that a run showed."""
    logs = (EventAccumulator(str(events)).Reload() for events in folder.rglob("events.out*"))
    return next([s.value for s in log.Scalars("train_loss")] for log in logs if "train_loss" in log.Tags()["scalars"])


def run_module(repository: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m …` in the repository."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
