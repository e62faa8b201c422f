"""At size `paper` the bundles of Fu et al. (2023) train as the paper does, at `small` as the shipped weights were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

# Cases of the training part, samples that training sees in all, and samples of an optimiser step (Table 6).
BUDGETS = {
    "brats": (938, 100_000, 8),
    "amos_ct": (200, 100_000, 8),
    "prostate_mr": (411, 100_000, 8),
    "muscle_us": (2531, 512_000, 64),
}
PAPER = {
    "ema_decay": 0.0,
    "optimizer#weight_decay": 1e-8,
    "schedule_rate#end_fraction": 5e-5 / 8e-4,
    "train#loss#pixel_weight": 20.0,
    "train#loss#dice_weight": 1.0,
    "train#loss#pixel_term": "cross_entropy",
}
OURS = {
    "ema_decay": 0.999,
    "optimizer#weight_decay": 0.01,
    "schedule_rate#end_fraction": 0.01,
    "train#loss#pixel_weight": 1.0,
}


@pytest.fixture
def settings(repository):
    def read(bundle: str, names: dict[str, Any], **overrides: Any) -> dict[str, Any]:
        parser = ConfigParser()
        parser.read_config(str(repository / "bundles" / bundle / "configs" / "train.json"))
        parser.update({"dataset_dir": "data", **overrides})
        return {name: parser.get_parsed_content(name) for name in names}

    return read


@pytest.mark.parametrize("bundle", BUDGETS)
@pytest.mark.parametrize("method", ["recycling", "supervised", "self_conditioning_next"])
def test_size_paper_trains_as_the_paper_does(settings, bundle, method):
    assert settings(bundle, PAPER | {"learning_rate": 0}, method=method) == pytest.approx(
        PAPER | {"learning_rate": 8e-4}
    )


@pytest.mark.parametrize("bundle", BUDGETS)
def test_size_paper_takes_as_many_samples_in_as_large_batches(settings, bundle):
    cases, samples, batch = BUDGETS[bundle]
    found = settings(bundle, dict.fromkeys(("epochs", "batch_size", "accumulation_steps")))
    assert found["batch_size"] * found["accumulation_steps"] == batch
    assert found["epochs"] * cases == pytest.approx(samples, rel=0.005)


@pytest.mark.parametrize("bundle", BUDGETS)
@pytest.mark.parametrize("change", [{"size": "small"}, {"method": "segdiff"}, {"method": "cdal"}])
def test_other_sizes_and_methods_train_as_the_shipped_weights_were(settings, bundle, change):
    assert settings(bundle, OURS, **change) == OURS


@pytest.mark.parametrize("bundle", ["brats", "muscle_us"])
def test_without_an_average_the_last_weights_are_kept(repository, run_bundle, tiny_for, tmp_path, bundle):
    dims = 2 if bundle == "muscle_us" else 3
    overrides = tiny_for(dims=dims) | {"size": "paper", "epochs": 3, "val_interval": 3}  # an average needs two steps
    run_bundle(repository / "bundles" / bundle / "train.json", **overrides)
    folder = tmp_path / "ckpt" / "recycling-paper"
    objects = torch.load(folder / "checkpoint.pt", weights_only=True)["objects"]
    kept = torch.load(folder / "model.pt", weights_only=True)
    last = objects["network"]
    assert kept.keys() == last.keys()
    assert all(torch.equal(value, last[name].to(value.dtype)) for name, value in kept.items())
