"""The attention block against the written-out formula."""

from __future__ import annotations

import math

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.attention import AttentionBlock
from tests.networks.nets.contract import awakened

SIZES = [(3, 4), (3, 2, 2)]


@pytest.mark.parametrize("size", SIZES)
def test_an_untrained_block_is_the_identity(size):
    x = torch.randn(2, 8, *size)
    assert torch.equal(AttentionBlock(8, 2)(x), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("heads", [1, 4])
def test_it_adds_softmax_of_scaled_products_of_its_norm(size, heads):
    block = awakened(AttentionBlock(8, heads))
    x = torch.randn(2, 8, *size)
    tokens = block.norm(x).flatten(2).transpose(1, 2)
    q, k, v = block.attention.to_qkv(tokens).chunk(3, dim=-1)
    width = 8 // heads
    mixed = []
    for head in range(heads):
        part = slice(width * head, width * (head + 1))
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        mixed.append(scores.softmax(dim=-1) @ v[..., part])
    added = block.attention.to_out(torch.cat(mixed, dim=-1)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), x + added, atol=1e-5, rtol=1e-5)


def test_every_place_can_reach_every_other():
    block = awakened(AttentionBlock(8, 2))
    x = torch.randn(1, 8, 4, 5, requires_grad=True)
    block(x)[0, 0, 0, 0].backward()
    assert (x.grad.abs().sum(dim=1) > 0).all()


def test_heads_that_do_not_divide_the_channels_are_refused():
    for heads in (3, 0):
        with pytest.raises(SpecError, match=f"num_heads is {heads} for 8 channels; give a number that divides them"):
            AttentionBlock(8, heads)
