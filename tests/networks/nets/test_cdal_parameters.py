"""The number of weights of cDAL's networks, accounted for part by part and against the published checkpoints.

The counts of the generators for MoNuSeg and chest X-ray are those of the authors' released files; those for the
hippocampus are of its release's training (one block a level) and sampling scripts (two).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import nn

from medsegdiff.methods.cdal import PAPER_DISCRIMINATORS, PAPER_GENERATORS
from medsegdiff.networks.blocks.adaptive_norm import AdaptiveGroupNorm
from medsegdiff.networks.nets.cdal_discriminator import CDALDiscriminator
from medsegdiff.networks.nets.cdal_generator import CDALGenerator


@dataclass(frozen=True)
class Task:
    """A data set of the paper and its published counts."""

    image_channels: int
    masks: int
    depth: int
    generator: int
    encoder: int
    discriminator: int

    @property
    def name(self) -> str:
        return {3: "monuseg", 1: "cxr" if self.masks == 1 else "hippocampus"}[self.image_channels]


TASKS = {
    "monuseg": Task(3, 1, 2, 41_666_753, 372_352, 27_736_705),
    "cxr": Task(1, 1, 1, 8_843_777, 112_064, 27_736_705),
    "hippocampus": Task(1, 3, 1, 2_691_971, 112_064, 12_462_849),
    "hippocampus-sampling": Task(1, 3, 2, 3_682_275, 112_064, 12_462_849),
}
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
both_dims = pytest.mark.parametrize("dims", [2, 3])


def generator(task: Task, dims: int = 2, **options: object) -> CDALGenerator:
    """The paper's network without memory behind its weights."""
    with torch.device("meta"):
        settings = {**PAPER_GENERATORS[task.name], "num_res_blocks": task.depth, **options}
        return CDALGenerator(dims, task.image_channels, task.masks, task.masks, **settings)


def discriminator(task: Task, dims: int = 2, **options: object) -> CDALDiscriminator:
    with torch.device("meta"):
        return CDALDiscriminator(dims, task.masks, **{**PAPER_DISCRIMINATORS[task.name], **options})


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out


def conv(dims: int, width_in: int, width_out: int, kernel: int = 3) -> int:
    return kernel**dims * width_in * width_out + width_out


def attention(width: int) -> int:
    return 2 * width + linear(width, 3 * width) + linear(width, width)


def block(dims: int, width_in: int, width_out: int, time: int, style: int, *, resamples: bool = False) -> int:
    norms = linear(style, 2 * width_in) + linear(style, 2 * width_out)
    convs = conv(dims, width_in, width_out) + conv(dims, width_out, width_out)
    shortcut = conv(dims, width_in, width_out, 1) if resamples or width_in != width_out else 0
    return norms + convs + linear(time, width_out) + shortcut


def decoder_inputs(channels: Sequence[int], depth: int) -> list[tuple[int, int]]:
    """Channels that come into and leave each decoder block, from the coarsest level up."""
    skips = [channels[0]]
    for level, width in enumerate(channels):
        skips += [width] * (depth + (level < len(channels) - 1))
    pairs, width = [], channels[-1]
    for level_width in reversed(channels):
        for _ in range(depth + 1):
            pairs.append((width + skips.pop(), level_width))
            width = level_width
    assert not skips
    return pairs


@each_task
def test_generators_have_the_published_numbers_of_weights(task):
    network = generator(task)
    assert count(network) == task.generator
    assert count(network.image_encoder) == task.encoder


def test_the_image_encoder_is_a_twentieth_of_segdiffs():
    assert 1 - TASKS["monuseg"].encoder / 8_782_592 == pytest.approx(0.958, abs=5e-4)


@each_task
@both_dims
def test_every_part_of_a_generator_has_the_weights_of_its_formula(task, dims):
    options = PAPER_GENERATORS[task.name]
    channels, style, nz = options["channels"], options["style_dim"], options["latent_dim"]
    first, last = channels[0], channels[-1]
    time, depth = 4 * first, task.depth
    coarse = [channels[level] for level in options["attention_levels"]]
    encoder_pairs = [*pairwise((first, *channels))]
    encoder_pairs += [(width, width) for width in channels for _ in range(depth - 1)]
    expected = {
        "image_encoder": conv(dims, task.image_channels, first)
        + options["encoder_blocks"] * (4 * first + 2 * conv(dims, first, first)),
        "mask_encoder": conv(dims, task.masks, first),
        "step_embedding": linear(first, time) + linear(time, time),
        "mapping": linear(nz, style) + 3 * linear(style, style),
        "encoder": sum(block(dims, *pair, time, style) for pair in encoder_pairs),
        "attention": depth * sum(map(attention, coarse)),
        "down": sum(block(dims, width, width, time, style, resamples=True) for width in channels[:-1]),
        "pyramid": sum(conv(dims, *pair) for pair in pairwise((task.masks, *channels[:-1]))),
        "bottom": 2 * block(dims, last, last, time, style),
        "bottom_attention": attention(last),
        "decoder": sum(block(dims, *pair, time, style) for pair in decoder_inputs(channels, depth)),
        "decoder_attention": sum(map(attention, coarse)),
        "up": sum(block(dims, width, width, time, style, resamples=True) for width in channels[1:]),
        "head": 2 * first + conv(dims, first, task.masks),
    }
    network = generator(task, dims)
    parts = {name: count(child) for name, child in network.named_children()}
    assert {part: n for part, n in parts.items() if n} == expected
    assert sum(expected.values()) == count(network)


@both_dims
def test_without_latent_each_norm_has_two_weights_a_channel_and_the_mapping_is_gone(dims):
    task = TASKS["cxr"]
    full, plain = generator(task, dims), generator(task, dims, latent=False)
    styles = [m.to_style.out_features for m in full.modules() if isinstance(m, AdaptiveGroupNorm)]
    assert count(full) - count(plain) == count(full.mapping) + sum(256 * n for n in styles)


@each_task
def test_discriminators_have_the_published_numbers_of_weights(task):
    assert count(discriminator(task)) == task.discriminator


def test_the_small_discriminator_of_half_the_width_has_its_published_number():
    assert count(discriminator(TASKS["hippocampus"], channels=(64, 64, 128, 256, 256))) == 3_188_225


@each_task
@both_dims
def test_every_part_of_a_discriminator_has_the_weights_of_its_formula(task, dims):
    options = PAPER_DISCRIMINATORS[task.name]
    channels, time = options["channels"], options["time_dim"]
    expected = {
        "step_embedding": 2 * linear(time, time),
        "first": conv(dims, 2 * task.masks, channels[0], 1),
        "blocks": sum(
            conv(dims, narrow, wide) + conv(dims, wide, wide) + linear(time, wide) + narrow * wide
            for narrow, wide in pairwise(channels)
        ),
        "last": conv(dims, channels[-1] + 1, channels[-1]),
        "head": channels[-1] + 1,
    }
    parts = {name: count(child) for name, child in discriminator(task, dims).named_children()}
    assert {part: n for part, n in parts.items() if n} == expected
