"""The number of weights of the recycling U-Net, accounted for part by part and against the published network.

The published counts (muscle ultrasound, abdominal CT, pelvic MR, brain MR) are those of the authors' release v0.2.0.
Ours has one further projection of the time in every block, since time scales and shifts behind the norm instead of
being added in front of it, where it has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import pytest
import torch
from torch import nn

from medsegdiff.networks.nets.recycling_unet import RecyclingUNet

WIDTHS = (32, 64, 128, 256)
TIME_DIM = 256


@dataclass(frozen=True)
class Task:
    """A data set of the paper and the counts of its three networks."""

    dims: int
    image_channels: int
    classes: int
    tokens: tuple[int, ...]
    supervised: int
    diffusion: int
    self_conditioned: int


TASKS = {
    "muscle": Task(2, 1, 2, (60, 64), 12_586_594, 13_335_554, 13_336_130),
    "amos": Task(3, 1, 16, (16, 16, 16), 33_383_024, 34_145_232, 34_159_056),
    "pelvic": Task(3, 1, 9, (32, 32, 4), 33_382_793, 34_138_953, 34_146_729),
    "brats": Task(3, 4, 2, (16, 16, 16), 33_385_154, 34_135_266, 34_136_994),
}
KINDS = ("supervised", "diffusion", "self_conditioned")
each_task = pytest.mark.parametrize("name", TASKS)
each_kind = pytest.mark.parametrize("kind", KINDS)


def build(name: str, kind: str) -> RecyclingUNet:
    """The paper's network without memory behind its weights."""
    task = TASKS[name]
    with torch.device("meta"):
        return RecyclingUNet(
            task.dims,
            task.image_channels,
            0 if kind == "supervised" else task.classes,
            task.classes,
            token_grid=task.tokens,
            self_conditioning=kind == "self_conditioned",
            time_dim=TIME_DIM,
        )


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def norm(width: int) -> int:
    return 2 * width


def linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out


def block(dims: int, width: int, kind: str) -> int:
    time = 0 if kind == "supervised" else linear(TIME_DIM, 2 * width)
    return 2 * 3**dims * width**2 + 2 * norm(width) + time


def widths_of_all_blocks(encoder_depth: int = 2) -> Sequence[int]:
    return [w for w in WIDTHS for _ in range(2 * encoder_depth + 1)] + [WIDTHS[-1]] * 2


@each_task
def test_a_supervised_network_has_the_published_number_of_weights(name):
    assert count(build(name, "supervised")) == TASKS[name].supervised


@each_task
@pytest.mark.parametrize("kind", ["diffusion", "self_conditioned"])
def test_a_diffusion_network_has_one_further_time_projection_a_block(name, kind):
    further = sum(linear(TIME_DIM, width) for width in widths_of_all_blocks())
    assert further == 257 * 2912 == 748_384
    assert count(build(name, kind)) == getattr(TASKS[name], kind) + further


@each_task
@each_kind
def test_every_part_has_the_weights_of_its_formula(name, kind):
    task, network = TASKS[name], build(name, kind)
    dims, top = task.dims, WIDTHS[-1]
    masks = {"supervised": 0, "diffusion": 1, "self_conditioned": 2}[kind] * task.classes
    steps = list(pairwise(WIDTHS))
    attention = linear(top, 3 * 8 * 64) + linear(8 * 64, top)
    mlp = linear(top, 4 * top) + linear(4 * top, top)
    expected = {
        "stem": 3**dims * (task.image_channels + masks) * WIDTHS[0] + norm(WIDTHS[0]),
        "encoder": sum(2 * block(dims, width, kind) for width in WIDTHS),
        "down": sum(2**dims * narrow * wide + norm(wide) for narrow, wide in steps),
        "bottleneck": 2 * block(dims, top, kind),
        "transformer": prod(task.tokens) * top + attention + mlp + 3 * norm(top),
        "decoder": sum(3 * block(dims, width, kind) for width in WIDTHS),
        "up": sum(2**dims * wide * narrow + norm(narrow) for narrow, wide in steps),
        "head": linear(WIDTHS[0], task.classes),
    }
    parts = {name: count(child) for name, child in network.named_children()}
    assert {part: n for part, n in parts.items() if n} == expected
    assert sum(expected.values()) == count(network)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_further_convolution_at_the_entrance_adds_its_own_weights(dims):
    with torch.device("meta"):
        one = RecyclingUNet(dims, 1, 2, 2)
        two = RecyclingUNet(dims, 1, 2, 2, stem_convs=2)
    assert count(two) - count(one) == 3**dims * WIDTHS[0] ** 2 + norm(WIDTHS[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_without_a_transformer_only_its_weights_are_missing(dims):
    with torch.device("meta"):
        full = RecyclingUNet(dims, 1, 2, 2)
        without = RecyclingUNet(dims, 1, 2, 2, transformer=False)
    assert count(full) - count(without) == count(full.transformer)
