"""`medsegdiff compare`: the plan, what is refused, and one whole study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

TINY = {"channels": [4, 4], "num_res_blocks": 0, "transformer": False, "norm": "group", "mask_gain": 1.0}
SIZE = [16, 16, 16]


@pytest.fixture
def study(tmp_path, repository):
    """Writes a study of a bundle with ten phantoms of 16 voxels a side; keywords replace what it says."""
    bundle = tmp_path / "hippocampus"
    shutil.copytree(repository / "bundles" / "hippocampus" / "configs", bundle / "configs")
    for name, cases in (("train.json", "datalists"), ("evaluate.json", "datalist")):
        config = json.loads((bundle / "configs" / name).read_text())
        config["phantoms"]["shape"] = SIZE
        config[cases]["num_phantoms"] = 10
        config |= {"roi_size": SIZE} | ({"patch_size": SIZE} if name == "train.json" else {})
        (bundle / "configs" / name).write_text(json.dumps(config))

    def write(**changes) -> Path:
        content = {
            "name": "tiny",
            "bundle": "hippocampus",
            "budget": {"steps": 3},
            "settings": {"network_options": TINY},
            "methods": ["supervised", "diffusion"],
            "ensembles": [["supervised", "diffusion"]],
            "evaluation": {"samplers": ["ddpm", "ddim"], "steps": [2], "draws": [2], "probe_t": 250},
        }
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return path

    return write


@pytest.fixture
def compare(run, tmp_path):
    """Runs `medsegdiff compare` with results in `tmp_path/out`."""

    def invoke(*arguments):
        return run("compare", *arguments, "--output", tmp_path / "out", "--device", "cpu")

    return invoke


def test_a_dry_run_prints_the_plan_and_writes_nothing(compare, study, tmp_path):
    result = compare(study(seeds=[0, 1]), "--dry-run")

    assert result.exit_code == 0, result.output
    assert "study tiny: bundle hippocampus, generated phantoms" in result.stdout
    assert result.stdout.count("supervised+diffusion") == 2
    assert "to do:" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["magic"]}, "method 'magic' does not exist; use one of supervised"),
        ({"bundle": "lungs"}, "bundle 'lungs' does not exist"),
        ({"evaluation": {"samplers": ["euler"]}}, "no sampler 'euler'"),
        ({"colour": "red"}, "there is no colour"),
        ({"settings": {"colour": "red"}}, "no id 'colour'"),
        ({"budget": {"steps": -5}}, "budget is -5 steps"),
        ({"budget": {"steps": 5, "minutes": 5}}, "give one of steps"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(compare, study, tmp_path, changes, said):
    result = compare(study(**changes))

    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not (tmp_path / "out").exists(), "nothing was begun"


def test_options_that_do_not_go_together_are_refused(compare, study):
    for arguments, said in (
        (("--time-steps",), "--dry-run"),
        (("--engine", "dask"), "'dask' does not exist; use one of in-process, ray"),
        (("--dataset-dir", "nowhere"), "dataset_dir nowhere does not exist"),
    ):
        result = compare(study(), *arguments)
        assert result.exit_code == 2
        assert said in result.stderr


@pytest.mark.slow
def test_a_whole_study(compare, study, tmp_path):
    broken = {"method": "recycling", "name": "broken", "settings": {"optimizer#lr": "fast"}}
    path = study(methods=["supervised", "diffusion", broken])
    result = compare(path)
    out = tmp_path / "out"

    assert result.exit_code == 2, "one method failed"
    assert "failed: train broken, seed 0" in result.stderr
    runs = pd.read_csv(out / "runs.csv", keep_default_na=False)
    assert runs.groupby("status")["method"].apply(sorted).to_dict() == {
        "done": [*["diffusion"] * 2, "supervised", *["supervised+diffusion"] * 2],
        "failed": ["recycling"],
    }
    assert set(runs.loc[(runs["status"] == "done") & (runs["optimiser_steps"] != ""), "optimiser_steps"]) == {"3"}
    cases = pd.read_csv(out / "cases.csv", keep_default_na=False)
    # Two cases of two classes: supervised; two samplers of two steps, and a probe of three kinds; two samplers of both.
    assert cases.groupby("method").size().to_dict() == {"supervised": 4, "diffusion": 28, "supervised+diffusion": 8}
    assert cases["dice"].astype(float).between(0, 1).all()
    assert len(pd.read_csv(out / "uncertainty.csv")) == 2 * (1 + 2 + 2)
    assert json.loads((out / "summary.json").read_text())
    assert "<html" in (out / "report.html").read_text()
    with np.load(next((out / "pictures").glob("*.npz"))) as file:
        assert file["steps"].shape[1:] == file["truth"].shape == file["entropy"].shape

    again = compare(study(methods=["supervised", "diffusion"]), "--dry-run")
    assert "to do: 0 network calls" in again.stdout
