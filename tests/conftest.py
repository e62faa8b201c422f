"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medsegdiff.methods import RunSpec, build_segmenter, save_weights

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state; what must not depend on it has tests of its own."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real images: `$MEDSEGDIFF_DATA`, else `../shared/data` beside the repository; skips without it."""
    root = Path(os.environ.get("MEDSEGDIFF_DATA") or REPOSITORY.parent / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no real images at {root}; set MEDSEGDIFF_DATA to a folder that has them")
    return root


@pytest.fixture
def training_items() -> Callable[..., list[dict[str, Any]]]:
    """Labelled cases in memory: a square or cube in two classes, whose brightness the image shows through noise."""
    from monai.data import MetaTensor

    def make(number: int, *, dims: int = 2, side: int = 8) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(number)
        items = []
        for index in range(number):
            label = torch.zeros(1, *[side] * dims)
            body = (0, *[slice(side // 4 + index % 2, -side // 4) for _ in range(dims)])
            label[body] = 1
            label[(*body[:-1], slice(side // 2, -side // 4))] *= 2
            image = label + 0.3 * torch.randn(label.shape, generator=generator)
            items.append({"image": MetaTensor(image), "label": MetaTensor(label), "case": f"case_{index}"})
        return items

    return make


@pytest.fixture
def make_trainer(training_items: Callable[..., list[dict[str, Any]]]) -> Callable[..., Any]:
    """A `DiffusionTrainer` of a tiny network on the cases in memory; its spec and optimiser hang on it."""
    from medsegdiff.data.keyed_dataset import KeyedCacheDataset, keyed_loader
    from medsegdiff.engines.ema import make_ema
    from medsegdiff.engines.trainer import DiffusionTrainer
    from medsegdiff.methods import RunSpec, build_segmenter

    def make(
        method: str = "recycling",
        *,
        dims: int = 2,
        samples: int = 4,
        batch_size: int = 2,
        max_epochs: int = 1,
        network_method: str | None = None,
        network_options: dict[str, Any] | None = None,
        transforms: tuple[Any, ...] = (),
        num_workers: int = 0,
        drop_last: bool | None = None,
        amp: str = "off",
        ema: bool = True,
        ema_decay: float = 0.9,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        learning_rate: float = 0.01,
        schedule_rate: Callable[..., Any] | None = None,
        **options: Any,
    ) -> DiffusionTrainer:
        torch.manual_seed(1)
        spec = RunSpec(
            task="test",
            method=network_method or method,
            size="small",
            spatial_dims=dims,
            in_channels=1,
            class_names=["background", "first", "second"],
            roi_size=[8] * dims,
            options={
                "channels": [8, 8, 8],
                "num_res_blocks": 1,
                "norm": "group",
                "mask_gain": 1.0,
                **(network_options or {}),
            },
            steps=2,
        )
        segmenter = build_segmenter(spec, amp=amp)
        dataset = KeyedCacheDataset(training_items(samples, dims=dims), list(transforms))
        chosen = optimizer(segmenter.parameters(), lr=learning_rate)
        trainer = DiffusionTrainer(
            "cpu",
            max_epochs,
            keyed_loader(dataset, batch_size=batch_size, num_workers=num_workers, drop_last=drop_last),
            segmenter,
            chosen,
            method=method,
            ema=make_ema(segmenter, decay=ema_decay) if ema else None,
            lr_scheduler=None if schedule_rate is None else schedule_rate(chosen),
            **options,
        )
        trainer.spec = spec
        return trainer

    return make


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The hippocampus bundle with small recycling and supervised networks that sample in two steps."""
    bundle = tmp_path_factory.mktemp("bundles") / "hippocampus"
    shutil.copytree(repository / "bundles" / "hippocampus" / "configs", bundle / "configs")
    for file, method in (("model.pt", "recycling"), ("supervised.pt", "supervised")):
        spec = RunSpec(
            task="hippocampus",
            method=method,
            size="small",
            spatial_dims=3,
            in_channels=1,
            class_names=["background", "anterior", "posterior"],
            roi_size=[40, 56, 40],
            options={
                "channels": [4, 4, 4],
                "num_res_blocks": 0,
                "transformer": False,
                "norm": "instance",
                "mask_gain": 1.0,
            },
            steps=2,
        )
        save_weights(build_segmenter(spec).state_dict(), spec, bundle / "models" / file)
    return bundle
