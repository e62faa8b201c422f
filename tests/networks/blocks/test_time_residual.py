"""The residual block to which the time is added, and the embedding of that time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.time_residual import TimeMLP, TimeResidualBlock, make_time_embedding
from tests.networks.nets.contract import awakened

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (6, 5, 4)


@both_dims
@pytest.mark.parametrize("out_channels", [8, 12])
def test_an_untrained_block_is_its_shortcut(dims, out_channels):
    block = TimeResidualBlock(dims, 8, out_channels, time_dim=3)
    x = torch.randn(2, 8, *SIZE[:dims])
    assert torch.equal(block(x, torch.randn(2, 3)), block.shortcut(x))
    assert isinstance(block.shortcut, nn.Identity) == (out_channels == 8)


@both_dims
@pytest.mark.parametrize("layers", [1, 2])
def test_the_time_is_added_between_the_convolutions(dims, layers):
    block = awakened(TimeResidualBlock(dims, 8, 12, time_dim=3, time_layers=layers))
    x, time = torch.randn(2, 8, *SIZE[:dims]), torch.randn(2, 3)
    if layers == 1:
        shift = block.time_projection[1](time * time.sigmoid())
    else:
        hidden = block.time_projection[0](time)
        shift = block.time_projection[2](hidden * hidden.sigmoid())
    h = block.conv1(nn.functional.silu(block.norm1(x))) + shift.view(2, 12, *(1,) * dims)
    h = block.conv2(nn.functional.silu(block.norm2(h)))
    torch.testing.assert_close(block(x, time), block.shortcut(x) + h)


@both_dims
@pytest.mark.parametrize("width", [2, 8, 32])
def test_time_changes_the_output_at_any_width(dims, width):
    block = awakened(TimeResidualBlock(dims, width, width, time_dim=3))
    x, time = torch.randn(2, width, *SIZE[:dims]), torch.randn(2, 3)
    assert (block(x, time) - block(x, time + 1)).abs().max() > 1e-2


def test_each_image_of_a_batch_has_its_own_time():
    block = awakened(TimeResidualBlock(2, 8, 8, time_dim=3))
    x, time = torch.randn(2, 8, 6, 5), torch.randn(2, 3)
    for n in range(2):
        torch.testing.assert_close(block(x, time)[n], block(x[n : n + 1], time[n : n + 1])[0])


def test_dropout_acts_in_training_only():
    block = awakened(TimeResidualBlock(2, 8, 8, dropout=0.5))
    x = torch.randn(2, 8, 6, 5)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_the_sinusoids_are_those_of_the_times_from_one_on():
    embedding = TimeMLP(32)
    t = torch.tensor([0, 1, 57, 99])
    features = embedding.sinusoid(t)
    for row, time in zip(features.tolist(), (t + 1).tolist(), strict=True):
        angles = [time * 10_000 ** (-n / 4) for n in range(4)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        assert row == pytest.approx(expected, abs=1e-4)
    first, second = embedding.layers[0], embedding.layers[2]
    torch.testing.assert_close(embedding(t), second(nn.functional.silu(first(features))))


def test_a_table_gives_each_time_a_vector_of_its_own():
    table = make_time_embedding("table", 5, 32)
    assert torch.equal(table(torch.tensor([4, 0])), table.weight[[4, 0]])
    assert table.weight.shape == (5, 8)
    assert isinstance(make_time_embedding("sinusoid", 5, 32), TimeMLP)


@pytest.mark.parametrize("name", ["sinusoid", "table"])
@pytest.mark.parametrize("time_dim", [4, 12, 0])
def test_an_embedding_that_cannot_be_split_is_refused(name, time_dim):
    with pytest.raises(SpecError, match=f"time_dim is {time_dim}; give a multiple of 8"):
        make_time_embedding(name, 10, time_dim)


def test_an_embedding_that_does_not_exist_is_refused():
    with pytest.raises(SpecError, match="time_embedding 'none' does not exist; use one of sinusoid, table"):
        make_time_embedding("none", 10, 32)
