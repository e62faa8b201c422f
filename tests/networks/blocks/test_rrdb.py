"""Dense blocks and RRDBs against the written-out sums."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.networks.blocks.rrdb import RRDB, DenseBlock

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (5, 4, 3)


@both_dims
def test_every_convolution_sees_all_outputs_before_it(dims):
    block = DenseBlock(dims, 4, 2)
    x = torch.randn(2, 4, *SIZE[:dims])
    seen = [x]
    for conv in block.grow:
        assert conv.weight.shape[:2] == (2, sum(part.shape[1] for part in seen))
        seen.append(F.leaky_relu(conv(torch.cat(seen, dim=1)), 0.2))
    assert len(seen) == 5
    torch.testing.assert_close(block(x), x + 0.2 * block.merge(torch.cat(seen, dim=1)))


@both_dims
def test_an_rrdb_is_a_fifth_of_three_dense_blocks_beside_its_input(dims):
    block = RRDB(dims, 4, 2)
    x = torch.randn(2, 4, *SIZE[:dims])
    first, second, third = block.dense
    torch.testing.assert_close(block(x), x + 0.2 * third(second(first(x))))


@both_dims
def test_the_input_is_left_as_it_was_and_gradients_are_right(dims):
    block = RRDB(dims, 2, 1).double()
    x = torch.randn(1, 2, *SIZE[:dims], dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    assert torch.autograd.gradcheck(block, (x,))
    assert torch.equal(x, before)


@both_dims
def test_without_its_last_convolution_a_dense_block_passes_its_input_on(dims):
    block = DenseBlock(dims, 4, 2)
    for parameter in block.merge.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 4, *SIZE[:dims])
    assert torch.equal(block(x), x)
