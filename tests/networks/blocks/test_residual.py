"""The residual block and its time conditioning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsegdiff.networks.blocks.residual import ResidualBlock

SIZE = (6, 5, 4)


def features(dims: int) -> torch.Tensor:
    return torch.randn(2, 4, *SIZE[:dims])


def conditioned(dims: int, plain: ResidualBlock, scale: torch.Tensor, shift: torch.Tensor) -> ResidualBlock:
    """`plain` with a time projection that gives this scale and shift, whatever the time."""
    block = ResidualBlock(dims, 4, time_dim=3)
    block.load_state_dict(plain.state_dict(), strict=False)
    assert block.time_projection is not None
    nn.init.zeros_(block.time_projection.weight)
    block.time_projection.bias.data = torch.cat([scale, shift])
    return block


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("dims", [2, 3])
def test_time_changes_the_output(dims, norm):
    block = ResidualBlock(dims, 4, time_dim=3, norm=norm)
    x, time = features(dims), torch.randn(2, 3)
    assert (block(x, time) - block(x, time + 1)).abs().max() > 0.05


@pytest.mark.parametrize("dims", [2, 3])
def test_time_scales_and_shifts_what_leaves_the_norm(dims):
    plain = ResidualBlock(dims, 4)
    scale, shift = torch.randn(4), torch.randn(4)
    x = features(dims)
    h = plain.norm2(plain.conv2(plain.activation(plain.norm1(plain.conv1(x)))))
    column = (1, 4, *(1,) * dims)
    expected = plain.activation(x + h * (1 + scale.view(column)) + shift.view(column))
    torch.testing.assert_close(conditioned(dims, plain, scale, shift)(x, torch.randn(2, 3)), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_no_scale_and_no_shift_is_the_block_without_time(dims):
    plain = ResidualBlock(dims, 4)
    x = features(dims)
    torch.testing.assert_close(conditioned(dims, plain, torch.zeros(4), torch.zeros(4))(x, torch.randn(2, 3)), plain(x))


def test_each_image_of_a_batch_has_its_own_time():
    block = ResidualBlock(2, 4, time_dim=3)
    x, time = features(2), torch.randn(2, 3)
    for one in range(2):
        torch.testing.assert_close(block(x, time)[one], block(x[one : one + 1], time[one : one + 1])[0])


def test_dropout_drops_whole_maps_in_training_only():
    block = ResidualBlock(2, 4, dropout=0.5)
    x = features(2)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
    dropped = block.train().dropout(torch.ones(8, 4, 3, 3)).flatten(2)
    assert torch.equal(dropped.amin(2), dropped.amax(2))
    assert (dropped == 0).any()
