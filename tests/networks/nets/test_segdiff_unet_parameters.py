"""The number of weights of SegDiff's network, accounted for part by part and against the published network.

The published counts are those of the networks that the authors' release builds: 256 x 256 with 12 RRDBs (MoNuSeg) or
6 (Vaihingen), and 128 x 128 with 15 (Cityscapes). Ours are the same to the last weight.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from medsegdiff.networks.nets.image_encoders import RRDBEncoder
from medsegdiff.networks.nets.segdiff_unet import SegDiffUNet

BASE, TIME_DIM, DEPTH = 128, 512, 3
SIDES = {256: (1, 1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 2, 4, 4)}
ATTENTION = {256: (4, 5), 128: (3, 4)}
U_NET = {256: 155_372_161, 128: 151_825_153}
RRDB = {1: 868_928, 3: 2_307_776, 6: 4_466_048, 10: 7_343_744, 12: 8_782_592, 15: 10_940_864}
TOTAL = {(256, 12): 164_154_753, (256, 6): 159_838_209, (128, 15): 162_766_017}
each_side = pytest.mark.parametrize("side", SIDES)


def build(side: int, *, dims: int = 2, image_channels: int = 3, masks: int = 1, **options: Any) -> SegDiffUNet:
    """The paper's network without memory behind its weights."""
    channels = tuple(BASE * factor for factor in SIDES[side])
    options = {"channels": channels, "attention_levels": ATTENTION[side], **options}
    with torch.device("meta"):
        return SegDiffUNet(dims, image_channels, masks, masks or 2, **options)


def count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def linear(width_in: int, width_out: int) -> int:
    return width_in * width_out + width_out


def conv(width_in: int, width_out: int, dims: int = 2) -> int:
    return 3**dims * width_in * width_out + width_out


def norm(width: int) -> int:
    return 2 * width


def block(width_in: int, width_out: int, dims: int = 2, *, attention: bool = False) -> int:
    shortcut = 0 if width_in == width_out else linear(width_in, width_out)
    convolutions = conv(width_in, width_out, dims) + conv(width_out, width_out, dims)
    attends = norm(width_out) + linear(width_out, 3 * width_out) + linear(width_out, width_out) if attention else 0
    return norm(width_in) + norm(width_out) + convolutions + linear(TIME_DIM, width_out) + shortcut + attends


@pytest.mark.parametrize(("side", "num_rrdbs"), TOTAL)
def test_the_whole_has_the_published_number_of_weights(side, num_rrdbs):
    network = build(side, num_rrdbs=num_rrdbs)
    assert count(network) == TOTAL[side, num_rrdbs]
    assert count(network.image_encoder) == RRDB[num_rrdbs]
    assert count(network) - count(network.image_encoder) == U_NET[side]


def test_the_defaults_are_the_paper_s_on_monuseg():
    with torch.device("meta"):
        assert count(SegDiffUNet(2, 3, 1, 1)) == TOTAL[256, 12]


@pytest.mark.parametrize("num_rrdbs", RRDB)
def test_the_image_encoder_has_the_published_number_of_weights(num_rrdbs):
    with torch.device("meta"):
        encoder = RRDBEncoder(2, 3, BASE, num_rrdbs=num_rrdbs)
    assert count(encoder) == RRDB[num_rrdbs] == 719_424 * num_rrdbs + 149_504


@pytest.mark.parametrize("dims", [2, 3])
def test_every_part_of_the_image_encoder_has_the_weights_of_its_formula(dims):
    with torch.device("meta"):
        encoder = RRDBEncoder(dims, 4, 24, num_rrdbs=2, channels=16, growth=8)
    dense = sum(conv(16 + 8 * n, 8, dims) for n in range(4)) + conv(48, 16, dims)
    expected = {
        "first": conv(4, 16, dims),
        "trunk": 2 * 3 * dense,
        "trunk_end": conv(16, 16, dims),
        "full_resolution": conv(16, 16, dims),
        "last": conv(16, 24, dims),
    }
    assert {name: count(part) for name, part in encoder.named_children()} == expected


@pytest.mark.parametrize("dims", [2, 3])
@each_side
def test_every_part_of_the_u_net_has_the_weights_of_its_formula(side, dims):
    network = build(side, dims=dims, masks=2)
    widths = [BASE * factor for factor in SIDES[side]]
    attends = [level in ATTENTION[side] for level in range(len(widths))]
    encoder, skips = 0, [BASE]
    for level, (before, width) in enumerate(pairwise([BASE, *widths])):
        encoder += block(before, width, dims, attention=attends[level])
        encoder += (DEPTH - 1) * block(width, width, dims, attention=attends[level])
        skips += [width] * (DEPTH + (width is not widths[-1] or level < len(widths) - 1))
    decoder, above = 0, widths[-1]
    for level in reversed(range(len(widths))):
        for _ in range(DEPTH + 1):
            decoder += block(above + skips.pop(), widths[level], dims, attention=attends[level])
            above = widths[level]
    assert not skips
    top = widths[-1]
    expected = {
        "mask_encoder": conv(2, BASE, dims),
        "time_embedding": linear(TIME_DIM // 4, TIME_DIM) + linear(TIME_DIM, TIME_DIM),
        "encoder": encoder,
        "down": sum(conv(width, width, dims) for width in widths[:-1]),
        "bottom": block(top, top, dims, attention=True) + block(top, top, dims),
        "decoder": decoder,
        "up": sum(conv(width, width, dims) for width in widths[1:]),
        "head": norm(BASE) + conv(BASE, 2, dims),
    }
    parts = {name: count(part) for name, part in network.named_children() if name != "image_encoder"}
    assert parts == expected


@each_side
def test_what_each_variant_adds_and_leaves_out(side):
    paper = build(side)
    encoder, image = count(paper.image_encoder), 3
    without = build(side, condition="concat_image")
    assert count(paper) - count(without) == encoder - 9 * image * BASE
    # E's first block and D's last one read C further channels: norm, convolution, shortcut (D's has one anyway).
    wider = norm(BASE) + 9 * BASE * BASE
    both = build(side, condition="concat_features")
    assert count(both) - count(paper) == wider + linear(2 * BASE, BASE) + wider + BASE * BASE
    assert count(build(side, condition="sum_after_down")) - count(paper) == conv(BASE, BASE)


@each_side
def test_a_table_takes_the_place_of_the_shared_layers(side):
    paper, table = build(side), build(side, time_embedding="table", num_train_timesteps=100)
    features = TIME_DIM // 4
    assert count(table.time_embedding) == 100 * features
    blocks = [m for m in paper.modules() if hasattr(m, "time_projection")]
    widths = [m.conv2.weight.shape[0] for m in blocks]
    saved = sum(linear(TIME_DIM, width) - linear(features, features) - linear(features, width) for width in widths)
    assert count(paper) - count(table) == count(paper.time_embedding) - 100 * features + saved


@each_side
def test_a_supervised_network_lacks_f_and_time(side):
    paper, supervised = build(side), build(side, masks=0)
    widths = [m.conv2.weight.shape[0] for m in paper.modules() if hasattr(m, "time_projection")]
    time = count(paper.time_embedding) + sum(linear(TIME_DIM, width) for width in widths)
    further_class = 9 * BASE + 1
    assert count(paper) - count(supervised) == conv(1, BASE) + time - further_class
