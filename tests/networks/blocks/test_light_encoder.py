"""cDAL's image encoder."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.light_encoder import LightEncoder

both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (4, 6, 2)


@both_dims
def test_untrained_it_is_its_first_convolution(dims):
    encoder, image = LightEncoder(dims, 2, 8, num_blocks=3), torch.randn(2, 2, *SIZE[:dims])
    torch.testing.assert_close(encoder(image), encoder.first(image))


@both_dims
def test_its_blocks_add_to_what_they_are_given(dims):
    encoder, image = LightEncoder(dims, 1, 8, num_blocks=1), torch.randn(2, 1, *SIZE[:dims])
    (block,) = encoder.blocks
    glorot(block.conv2)
    h = encoder.first(image)
    inner = block.conv1(F.silu(F.group_norm(h, 8)))
    expected = h + block.conv2(F.silu(F.group_norm(inner, 8)))
    torch.testing.assert_close(encoder(image), expected)


def test_an_image_of_one_voxel_is_encoded():
    assert torch.isfinite(LightEncoder(3, 1, 8)(torch.randn(1, 1, 1, 1, 1))).all()
