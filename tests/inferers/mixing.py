"""A network whose answer depends on all that windows could get wrong, and what compares segmentations."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.inferers import window_averaged
from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.inferers.window_plan import WindowPlan
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation

SIZES = {2: (10, 7), 3: (10, 7, 6)}
WINDOWS = {2: (4, 5), 3: (4, 5, 3)}
both_dims = pytest.mark.parametrize("dims", [2, 3])


class Mixing(nn.Module):
    """Looks at neighbours, at x_t, the time, x0_prev and a latent, and remembers what it was shown."""

    def __init__(self, dims: int, *, latent_dim: int = 2, encodes: bool = True) -> None:
        super().__init__()
        self.spatial_dims, self.image_channels, self.latent_dim = dims, 1, latent_dim
        self.encodes = encodes
        self.encoded: list[torch.Size] = []
        self.calls: list[dict[str, Any]] = []

    def blur(self, x: torch.Tensor) -> torch.Tensor:
        return (F.avg_pool2d if self.spatial_dims == 2 else F.avg_pool3d)(x, 3, stride=1, padding=1)

    def encode(self, image):
        self.encoded.append(image.shape)
        return torch.cat([image, image - self.blur(image)], dim=1) if self.encodes else image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        self.calls.append({"x_t": x_t, "t": t, "x0_prev": x0_prev, "z": z})
        first = 2 * self.blur(condition[:, :1]) + condition[:, -1:]
        logits = torch.cat([-first, first, 0.3 * first.abs()], dim=1)
        if x_t.shape[1]:
            logits = logits + self.blur(x_t) + t.view(-1, *[1] * (x_t.ndim - 1)) / 40
        if x0_prev is not None:
            logits = logits + 0.8 * self.blur(x0_prev)
        return logits if z is None else logits + 0.3 * z.mean(dim=1).view(-1, *[1] * (x_t.ndim - 1))


def mixing(dims: int = 2, *, supervised: bool = False, latent_dim: int = 2, encodes: bool = True, **options: Any):
    return DiffusionSegmenter(
        Mixing(dims, latent_dim=0 if supervised else latent_dim, encodes=encodes),  # type: ignore[arg-type]
        codec=OneHotCodec(3),
        prediction=build_prediction("logits"),
        schedule=None if supervised else linear_schedule(20),
        **{"steps": 4, **options},
    )


def images(dims: int = 2, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, *SIZES[dims], generator=torch.Generator().manual_seed(1))


def same(one: Segmentation, other: Segmentation, **tolerance: float) -> None:
    torch.testing.assert_close(one.probabilities, other.probabilities, **tolerance)
    torch.testing.assert_close(one.variance, other.variance, **tolerance)
    assert one.draws == other.draws


def differ(one: Segmentation, other: Segmentation) -> bool:
    return not torch.allclose(one.probabilities, other.probabilities, atol=1e-3)


def plan_of(caplog: pytest.LogCaptureFixture, inferer: WindowAveragedInferer, *args: Any, **options: Any) -> WindowPlan:
    """The plan of a sampling, from the log."""
    caplog.clear()
    inferer._logged.clear()
    with caplog.at_level(logging.INFO, logger=window_averaged.__name__):
        inferer.sample(*args, **options)
    [record] = caplog.records
    return record.args[0]
