"""Memory of training, found out without a step of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medsegdiff.engines.training_memory import COPIES, training_memory
from medsegdiff.methods import METHODS, RunSpec, build_segmenter
from medsegdiff.methods.cdal import build_discriminator
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.live_bytes import MARGIN
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

CPU = torch.device("cpu")
SHAPE = (2, 1, 8, 6)
FLOATS = 4 * 2 * 8 * 6  # bytes of one channel of the batch


class Scales(Denoiser):
    """x_t times one weight: its product is all that a step makes beside what goes in."""

    spatial_dims, image_channels, mask_channels, latent_dim = 2, 1, 3, 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 1))
        self.calls = 0

    def encode(self, image):
        return image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        self.calls += 1
        return x_t * self.weight[0]


class OfContent(Scales):
    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        return x_t * self.weight[0] * float(condition.mean())


def segmenter(denoiser: nn.Module) -> DiffusionSegmenter:
    return DiffusionSegmenter(
        denoiser, codec=OneHotCodec(3), prediction=build_prediction("logits"), schedule=linear_schedule(20)
    )


def test_weights_are_counted_with_gradient_moments_and_average():
    network = segmenter(Scales())
    assert training_memory(network, SHAPE, CPU).weights == COPIES * 5 * 4
    assert training_memory(network, SHAPE, CPU, averaged=True).weights == (COPIES + 1) * 5 * 4


def test_a_step_holds_what_its_backward_pass_needs():
    network = segmenter(Scales())
    step = training_memory(network, SHAPE, CPU).step
    # The image, x_t, their product, its square, and the slopes of the last two: and little besides.
    made = (1 + 3 + 3 + 3 + 2 * 3) * FLOATS
    assert 0.9 * MARGIN * made <= step <= 1.3 * MARGIN * made
    assert network.denoiser.calls == 0
    assert network.denoiser.weight.grad is None


def test_a_network_that_looks_at_content_is_unknown():
    assert training_memory(segmenter(OfContent()), SHAPE, CPU).step == 0


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_step_of_twice_the_batch_takes_about_twice_the_memory(method):
    spec = RunSpec("phantoms", method, "small", 2, 1, ["background", "head", "tail"], [32, 32], steps=2)
    network = build_segmenter(spec)
    judge = build_discriminator(spec) if method == "cdal" else None
    one, two = (training_memory(network, (n, 1, 32, 32), CPU, discriminator=judge).step for n in (4, 8))
    assert 1.5 < two / one < 2.1  # gradients of the weights stay


def test_what_is_recomputed_is_not_kept():
    spec = RunSpec("phantoms", "segdiff", "small", 2, 1, ["background", "head"], [64, 64])
    kept = build_segmenter(spec)
    recomputed = build_segmenter(spec.replace(options={"gradient_checkpointing": True}))
    sizes = [training_memory(network, (4, 1, 64, 64), CPU).step for network in (kept, recomputed)]
    assert sizes[1] < 0.8 * sizes[0]


def test_a_discriminator_adds_its_weights_and_its_step():
    spec = RunSpec("phantoms", "cdal", "small", 2, 1, ["background", "head"], [32, 32], steps=2)
    network, judge = build_segmenter(spec), build_discriminator(spec, channels=[256, 256], time_dim=8)
    alone, both = (training_memory(network, (2, 1, 32, 32), CPU, discriminator=d) for d in (None, judge))
    assert both.weights - alone.weights == COPIES * 4 * sum(p.numel() for p in judge.parameters())
    assert both.step > alone.step
    assert math.isfinite(both.step)
