"""A bundle of tiny phantoms, studies of it, and runs that look trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsegdiff.compare.digests import digest_of
from medsegdiff.compare.plan import Plan, make_plan
from medsegdiff.compare.runs import DONE, Run
from medsegdiff.compare.study import read_study
from medsegdiff.methods import build_segmenter, save_weights

TINY = {"channels": [4, 4], "num_res_blocks": 0, "transformer": False, "norm": "group", "mask_gain": 1.0}
SIZE = [16, 16, 16]


@pytest.fixture(scope="session")
def phantom_bundle(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The hippocampus bundle with ten phantoms of 16 voxels a side: seven to train, one to validate, two to test."""
    bundle = tmp_path_factory.mktemp("bundles") / "hippocampus"
    shutil.copytree(repository / "bundles" / "hippocampus" / "configs", bundle / "configs")
    for name, cases in (("train.json", "datalists"), ("evaluate.json", "datalist")):
        config = json.loads((bundle / "configs" / name).read_text())
        config["phantoms"]["shape"] = SIZE
        config[cases]["num_phantoms"] = 10
        config["roi_size"] = SIZE
        if name == "train.json":
            config["patch_size"] = SIZE
        (bundle / "configs" / name).write_text(json.dumps(config))
    return bundle


@pytest.fixture
def write_study(tmp_path: Path, phantom_bundle: Path) -> Callable[..., Path]:
    """Writes a study file of tiny networks; keywords replace what it says, None takes an entry out."""

    def write(**changes: Any) -> Path:
        content: dict[str, Any] = {
            "name": "tiny",
            "bundle": str(phantom_bundle),
            "budget": {"steps": 6},
            "settings": {"network_options": dict(TINY)},
            "methods": ["supervised", "diffusion"],
            "evaluation": {"samplers": ["ddpm"], "steps": [2], "draws": [1]},
            "pictures": 0,
        }
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def plan_study(write_study: Callable[..., Path], tmp_path: Path) -> Callable[..., Plan]:
    """Plans a study of `write_study`, with results in `tmp_path/out`."""

    def plan(**changes: Any) -> Plan:
        return make_plan(read_study(write_study(**changes)), tmp_path / "out", device="cpu")

    return plan


@pytest.fixture
def pretend_trained() -> Callable[..., None]:
    """Gives runs fresh weights, and records that say they were trained."""

    def pretend(*runs: Run, seed: int = 0) -> None:
        import torch

        for run in runs:
            if run.training is None:
                continue
            torch.manual_seed(seed)
            run.prepare_folder()
            save_weights(build_segmenter(run.training.spec).state_dict(), run.training.spec, run.weights[""])
            record = {"optimiser_steps": 6, "train_minutes": 0.1, "parameters": run.training.parameters}
            run.write_record(DONE, {**record, "machine": "none", "weights": digest_of(run.weights[""])})

    return pretend
