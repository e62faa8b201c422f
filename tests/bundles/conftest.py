"""Running a bundle inside the test process, small and without leaving traces."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import set_determinism

from medsegdiff.methods import build_segmenter, save_weights

# Networks of each family that train for a second or two.
NETWORKS: dict[str, dict[str, Any]] = {
    "segdiff": {
        "channels": [8, 8, 8, 8],
        "num_res_blocks": 1,
        "attention_levels": [],
        "num_rrdbs": 1,
        "rrdb_channels": 8,
        "rrdb_growth": 4,
    },
    "cdal": {
        "channels": [8, 8, 8, 8],
        "num_res_blocks": 1,
        "attention_levels": [],
        "encoder_blocks": 1,
        "latent_dim": 4,
        "style_dim": 8,
    },
    "others": {"channels": [8, 8, 8], "num_res_blocks": 0, "num_heads": 2, "time_dim": 8},
}


def tiny_overrides(method: str = "recycling", *, dims: int = 3) -> dict[str, Any]:
    """Overrides of a bundle's ids: a small network of a method, few phantoms, two steps."""
    overrides: dict[str, Any] = {
        "network_options": NETWORKS.get(method, NETWORKS["others"]),
        "roi_size": [16] * dims,
        "patch_size": [16] * dims,
        "phantoms#shape": [16] * dims,
        "datalists#num_phantoms": 8,
        "epochs": 1,
        "steps": 2,
        "draws": 1,
        "amp": "off",
        "device": "cpu",
    }
    if method == "cdal":
        layer = {"channels": [8, 8], "time_dim": 8}
        overrides |= {"adversarial": {"discriminator": layer, "attention_layer": "1/2"}}
    if dims == 2:
        overrides["image_size"] = [16, 16]
    return overrides


TINY = tiny_overrides()


@pytest.fixture(scope="session")
def phantom_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where phantoms of this session are kept."""
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture(autouse=True)
def _without_traces(monkeypatch: pytest.MonkeyPatch, phantom_cache: Path) -> Iterator[None]:
    """Undo what a bundle does to the process: search path, hook for exceptions, determinism, folder of phantoms."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(tempfile, "tempdir", str(phantom_cache))
    yield
    set_determinism(None)


@pytest.fixture
def tiny() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture
def tiny_for() -> Callable[..., dict[str, Any]]:
    """See `tiny_overrides`."""
    return tiny_overrides


@pytest.fixture
def run_bundle(tmp_path: Path) -> Callable[..., ConfigWorkflow]:
    """Run the training of a bundle as `python -m monai.bundle run training` does; returns its workflow."""

    def run(config_file: Path | list[Path], **overrides: Any) -> ConfigWorkflow:
        files = config_file if isinstance(config_file, list) else [config_file]
        workflow = ConfigWorkflow(
            config_file=[str(file) for file in files],
            logging_file=False,
            run_id="training",
            workflow_type="train",
            **{**TINY, "ckpt_dir": str(tmp_path / "ckpt"), **overrides},
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    return run


@pytest.fixture
def make_tiny_bundle(repository: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a bundle whose training configuration builds a tiny network, with random weights where asked."""

    def make(name: str, *, weights: bool = False) -> Path:
        folder = tmp_path / "bundles" / name
        shutil.copytree(
            repository / "bundles" / name, folder, ignore=shutil.ignore_patterns("models", "ckpt", "output")
        )
        (folder / "models").mkdir()
        for file in (folder / "train.json", folder / "configs" / "train.json"):
            config = json.loads(file.read_text())
            config.update({key: value for key, value in TINY.items() if "#" not in key})
            file.write_text(json.dumps(config))
        if weights:
            parser = ConfigParser()
            parser.read_config(str(folder / "train.json"))
            spec = parser.get_parsed_content("spec")
            save_weights(build_segmenter(spec).state_dict(), spec, folder / "models" / "model.pt")
        return folder

    return make
