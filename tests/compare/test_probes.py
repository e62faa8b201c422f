"""What a noisy mask says by itself, at times when that is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsegdiff.compare.probes import probe_case
from medsegdiff.networks.codec import OneHotCodec, SingleChannelCodec
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter


class Blind(nn.Module):
    """Sees nothing."""

    def encode(self, image):
        return image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        return torch.zeros_like(x_t)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("codec", [OneHotCodec(3), SingleChannelCodec()], ids=["one_hot", "single_channel"])
def test_x_t_says_the_truth_at_first_and_nothing_at_last(codec, dims):
    segmenter = DiffusionSegmenter(
        Blind(), codec=codec, prediction=build_prediction("tanh"), schedule=linear_schedule(1001), steps=2
    )
    label = torch.randint(
        codec.num_classes, (1, *[40] * 2, *[10] * (dims - 2)), generator=torch.Generator().manual_seed(0)
    )
    item = {"image": label.float(), "label": label, "case": "a"}
    right = {}
    for t in (0, 300, 1000):
        says = probe_case(segmenter, item, t=t, seed=0, device=torch.device("cpu"))["x_t"]
        assert torch.equal(says.sum(dim=0), torch.ones_like(label[0], dtype=torch.float32))
        right[t] = float((says.argmax(dim=0) == label[0]).float().mean())
    assert right[0] == 1
    assert 1 / codec.num_classes + 0.1 < right[300] < 1
    assert right[1000] == pytest.approx(1 / codec.num_classes, abs=0.05)
