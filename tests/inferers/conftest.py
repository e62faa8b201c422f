"""Networks whose answer is known at every voxel, and a bundle that uses one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from medsegdiff.methods import RunSpec
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

CLASS_NAMES = ["background", "anterior", "posterior"]


class Pointwise(nn.Module):
    """Logits of each voxel from that voxel alone: windows can make no difference but through the noise."""

    def __init__(self, spatial_dims: int = 3, *, sharpness: float = 1.0, image_channels: int = 1) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.image_channels = image_channels
        self.sharpness = sharpness

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        first = condition[:, :1] * self.sharpness
        logits = torch.cat([-first, first, torch.full_like(first, -self.sharpness)], dim=1)
        return logits + 0.3 * x_t if x_t.shape[1] else logits


def pointwise_segmenter(*, supervised: bool = False, spatial_dims: int = 3, **options) -> DiffusionSegmenter:
    settings = {"sharpness": options.pop("sharpness", 1.0), "image_channels": options.pop("image_channels", 1)}
    return DiffusionSegmenter(
        Pointwise(spatial_dims, **settings),
        codec=OneHotCodec(options.pop("num_classes", 3)),
        prediction=build_prediction("logits"),
        schedule=None if supervised else linear_schedule(20),
        **{"steps": 3, **options},
    )


@pytest.fixture
def make_segmenter():
    return pointwise_segmenter


@pytest.fixture
def threshold_bundle(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hippocampus bundle with a network that calls "anterior" what is brighter than the image's mean."""
    bundle = tmp_path / "hippocampus"
    shutil.copytree(repository / "bundles" / "hippocampus" / "configs", bundle / "configs")
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").touch()
    spec = RunSpec(
        task="hippocampus",
        method="supervised",
        size="small",
        spatial_dims=3,
        in_channels=1,
        class_names=CLASS_NAMES,
        roi_size=[40, 56, 40],
    )
    spec.write(bundle / "models" / "model.json")
    monkeypatch.setattr(
        "medsegdiff.inferers.loading.load_segmenter",
        lambda *_args, **_options: pointwise_segmenter(supervised=True, sharpness=1e4),
    )
    return bundle
