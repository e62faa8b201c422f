"""The bottleneck's transformer against the written-out formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.transformer import BottleneckTransformer, SelfAttention


def test_attention_is_softmax_of_scaled_products():
    attention = SelfAttention(6, num_heads=2, head_dim=5)
    tokens = torch.randn(3, 7, 6)
    # Rows of the projection: all queries, all keys, all values; within each, head by head.
    q, k, v = attention.to_qkv(tokens).chunk(3, dim=-1)
    heads = []
    for head in range(2):
        part = slice(5 * head, 5 * head + 5)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(5)
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    torch.testing.assert_close(attention(tokens), attention.to_out(torch.cat(heads, dim=-1)), atol=1e-5, rtol=1e-5)


def test_attention_alone_does_not_know_the_order_of_tokens():
    attention = SelfAttention(6, num_heads=2, head_dim=3)
    tokens, order = torch.randn(1, 7, 6), torch.randperm(7)
    torch.testing.assert_close(attention(tokens)[:, order], attention(tokens[:, order]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(3, 4), (3, 4, 2)])
def test_the_layer_follows_its_formula(grid):
    block = BottleneckTransformer(len(grid), 8, token_grid=grid, num_heads=2)
    x = torch.randn(2, 8, *grid)
    h = (x + block.position).flatten(2).transpose(1, 2)
    h = h + block.attention_norm(block.attention(h))
    h = block.out_norm(h + block.mlp_norm(block.mlp(h)))
    expected = h.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), expected)
    # The last layer norm leaves every token with mean 0 and variance 1 over its channels.
    torch.testing.assert_close(expected.mean(dim=1), torch.zeros(2, *grid), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("grid", "other", "mode"), [((3, 4), (5, 2), "bilinear"), ((3, 4, 2), (2, 6, 5), "trilinear")])
def test_positions_are_interpolated_to_other_sizes(grid, other, mode):
    block = BottleneckTransformer(len(grid), 8, token_grid=grid, num_heads=2)
    resized = BottleneckTransformer(len(grid), 8, token_grid=other, num_heads=2)
    weights = block.state_dict()
    weights["position"] = F.interpolate(block.position.detach(), size=other, mode=mode, align_corners=False)
    resized.load_state_dict(weights)
    x = torch.randn(1, 8, *other)
    torch.testing.assert_close(block(x), resized(x))


def test_positions_make_the_output_depend_on_the_place():
    block = BottleneckTransformer(2, 8, token_grid=(2, 3), num_heads=2)
    block.position.data *= 50
    x = torch.randn(1, 8, 2, 3)
    assert (block(x).flip(-1) - block(x.flip(-1))).abs().max() > 0.1


def test_one_position_for_all_says_nothing_at_any_size():
    block = BottleneckTransformer(2, 8, token_grid=(2, 3), num_heads=2)
    block.position.data = torch.ones(1, 8, 1, 1).expand(1, 8, 2, 3).clone()
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(block(x).flip(-1), block(x.flip(-1)), atol=1e-5, rtol=1e-5)


def test_a_grid_of_the_wrong_number_of_axes_is_refused():
    with pytest.raises(SpecError, match=r"token_grid must have 3 entries, one per axis, got \(4, 4\)"):
        BottleneckTransformer(3, 8, token_grid=(4, 4))
