"""Memory of a network, found out without running it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medsegdiff.inferers.network_memory import FEATURES, window_memory
from medsegdiff.methods import METHODS, RunSpec, build_segmenter
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.live_bytes import MARGIN
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

CPU = torch.device("cpu")
SIZE = (8, 6)
FLOATS = 4 * math.prod(SIZE)  # bytes of one channel


class Wide(nn.Module):
    """A condition of 5 channels by way of 7, then 20 channels at once; remembers whether it was called."""

    spatial_dims, image_channels = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(1))

    def encode(self, image):
        self.calls += 1
        wide = image.expand(-1, 7, -1, -1).contiguous()
        return wide[:, :5] * self.scale

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        self.calls += 1
        return torch.cat([condition] * 4, dim=1)[:, :3] + x_t


def segmenter(denoiser: nn.Module) -> DiffusionSegmenter:
    return DiffusionSegmenter(
        denoiser, codec=OneHotCodec(3), prediction=build_prediction("logits"), schedule=linear_schedule(20)
    )


def test_tensors_that_live_at_once_are_counted():
    memory = window_memory(segmenter(Wide()), 1, SIZE, CPU)
    assert memory.measured
    assert memory.condition == 5 * FLOATS
    assert memory.encode == MARGIN * (1 + 7 + 5) * FLOATS
    # the image, the condition, x_t, x0_prev, what is joined and what comes out, and t
    assert memory.denoise == MARGIN * ((1 + 5 + 3 + 3 + 20 + 3) * FLOATS + 8)


def test_the_network_is_neither_called_nor_changed():
    network = segmenter(Wide())
    window_memory(network, 1, SIZE, CPU)
    assert network.denoiser.calls == 0
    assert type(network.denoiser.scale) is nn.Parameter


def test_it_grows_with_the_window_and_is_found_out_once(monkeypatch):
    network = segmenter(Wide())
    small = window_memory(network, 1, SIZE, CPU)
    assert window_memory(network, 1, (16, 12), CPU).condition == 4 * small.condition
    monkeypatch.setattr(Wide, "encode", None)
    assert window_memory(network, 1, SIZE, CPU) is small


class OfContent(Wide):
    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        return x_t * float(condition.mean())


def test_a_network_that_looks_at_content_is_guessed():
    memory = window_memory(segmenter(OfContent()), 1, SIZE, CPU)
    assert not memory.measured
    assert memory.encode == memory.condition == memory.denoise == FEATURES * FLOATS


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dims", [2, 3])
def test_the_networks_of_all_methods_can_be_followed(method, dims):
    size = [16, 8, 8][:dims]
    options = {"channels": [8, 8], "num_res_blocks": 1}
    if "segdiff" in method:
        options |= {"num_rrdbs": 1, "attention_levels": []}
    if "cdal" in method:
        options |= {"attention_levels": []}
    spec = RunSpec("test", method, "small", dims, 2, ["background", "body"], size, options=options, steps=2)
    network = build_segmenter(spec)
    memory = window_memory(network, 2, size, CPU)
    assert memory.measured
    image = torch.zeros(1, 2, *size)
    condition = network.encode(image)
    assert memory.condition == (0 if condition is image else 4 * condition.numel())
    assert memory.denoise > MARGIN * 4 * 8 * math.prod(size)
