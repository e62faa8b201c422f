"""Denoisers of two lines, with which sampling can be checked exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

MakeSegmenter = Callable[..., DiffusionSegmenter]


class Oracle(nn.Module):
    """Knows the answer: the image holds the logits. Remembers what it was shown.

    With a `share` above zero, the noisy mask and the time shift the logits, so that every draw differs.
    """

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))
        self.encoded = 0
        self.batches: list[int] = []
        self.times: list[int] = []
        self.x0_prevs: list[torch.Tensor | None] = []
        self.modes: list[bool] = []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.encoded += 1
        return image

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor,
        x0_prev: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.batches.append(len(x_t))
        self.times.append(int(t[0]))
        self.x0_prevs.append(x0_prev)
        self.modes.append(self.training)
        if not x_t.shape[1]:
            return condition * (1 + self.share)
        return condition + self.share * (x_t + t.view(-1, *(1,) * (x_t.ndim - 1)) / 50)


@pytest.fixture
def make_segmenter() -> MakeSegmenter:
    """A segmenter of three classes around an oracle, or around a denoiser of one's own."""

    def make(share: float = 0.0, *, denoiser: nn.Module | None = None, **options: Any) -> DiffusionSegmenter:
        parts = {"codec": OneHotCodec(3), "prediction": build_prediction("logits"), "schedule": linear_schedule(50)}
        return DiffusionSegmenter(denoiser or Oracle(share), **{**parts, **options})

    return make
