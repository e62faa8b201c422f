"""Attention of one head."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.single_head_attention import SingleHeadAttention

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (4, 6, 2)


@both_dims
def test_it_is_attention_of_one_head_over_all_voxels(dims):
    block, x = SingleHeadAttention(8), torch.randn(2, 8, *SIZE[:dims])
    glorot(block.attention.to_out)
    q, k, v = block.attention.to_qkv(block.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=-1)
    weights = (q @ k.transpose(1, 2) / 8**0.5).softmax(dim=-1)
    h = block.attention.to_out(weights @ v).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(block(x), (x + h) / 2**0.5)


def test_untrained_it_only_scales():
    x = torch.randn(1, 8, 3, 3)
    torch.testing.assert_close(SingleHeadAttention(8)(x), x / 2**0.5)
