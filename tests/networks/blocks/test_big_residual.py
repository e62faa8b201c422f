"""The residual block of time, latent and resampling."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.big_residual import BigResidualBlock
from medsegdiff.networks.blocks.fir import FIRDownsample, FIRUpsample
from medsegdiff.networks.blocks.glorot import glorot

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (4, 6, 2)


@both_dims
@pytest.mark.parametrize("resampling", ["none", "down", "up"])
def test_untrained_it_is_its_shortcut(dims, resampling):
    block, x = BigResidualBlock(dims, 8, 12, resampling=resampling), torch.randn(2, 8, *SIZE[:dims])
    resample = {"none": nn.Identity(), "down": FIRDownsample(dims), "up": FIRUpsample(dims)}[resampling]
    torch.testing.assert_close(block(x), block.shortcut(resample(x)) / 2**0.5)


@both_dims
def test_it_is_what_it_says(dims):
    block = BigResidualBlock(dims, 8, 8, time_dim=6, style_dim=5)
    x, time, style = torch.randn(2, 8, *SIZE[:dims]), torch.randn(2, 6), torch.randn(2, 5)
    glorot(block.conv2)
    h = block.conv1(F.silu(block.norm1(x, style)))
    h = h + block.time_projection(time).view(2, 8, *(1,) * dims)
    h = block.conv2(F.silu(block.norm2(h, style)))
    torch.testing.assert_close(block(x, time, style), (x + h) / 2**0.5)


@pytest.mark.parametrize(
    ("channels", "resampling", "learned"), [((8, 8), "none", False), ((8, 4), "none", True), ((8, 8), "up", True)]
)
def test_the_shortcut_is_learned_where_channels_or_sizes_change(channels, resampling, learned):
    block = BigResidualBlock(2, *channels, resampling=resampling)
    assert isinstance(block.shortcut, nn.Conv2d) == learned


def test_dropout_drops_in_training_only():
    block, x = BigResidualBlock(2, 8, 8, dropout=0.5), torch.randn(1, 8, 4, 4)
    glorot(block.conv2)
    assert not torch.equal(block(x), block(x))
    assert torch.equal(block.eval()(x), block(x))


def test_a_resampling_that_does_not_exist_is_refused():
    with pytest.raises(SpecError, match="resampling 'half' does not exist; use one of none, down, up"):
        BigResidualBlock(2, 8, 8, resampling="half")
