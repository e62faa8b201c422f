"""Image encoders: features on the image's own grid."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn
from torch.nn import functional as F

from medsegdiff.networks.blocks.layers import Conv3d
from medsegdiff.networks.blocks.padding import pad_at_end
from medsegdiff.networks.nets.image_encoders import BasicUNetEncoder, RRDBEncoder


def rrdb_encoder(dims: int, **options: bool) -> RRDBEncoder:
    return RRDBEncoder(dims, 2, 6, num_rrdbs=2, channels=4, growth=2, **options)


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (16, 3), (5, 4, 3), (1, 1, 1)])
def test_rrdb_features_lie_on_the_grid_of_the_image(size):
    assert rrdb_encoder(len(size))(torch.randn(2, 2, *size)).shape == (2, 6, *size)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_trunk_is_added_to_what_enters_it(dims):
    encoder = rrdb_encoder(dims)
    image = torch.randn(2, 2, *(6, 5, 4)[:dims])
    entry = encoder.first(image)
    h = entry + encoder.trunk_end(encoder.trunk[1](encoder.trunk[0](entry)))
    expected = encoder.last(F.leaky_relu(encoder.full_resolution(h), 0.2))
    torch.testing.assert_close(encoder(image), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_rrdb_features_do_not_depend_on_the_place(dims):
    """No norm and no stride: away from the border, a shifted image has shifted features."""
    encoder = rrdb_encoder(dims).double()
    image = torch.zeros(1, 2, *[80] * dims if dims == 2 else (76, 5, 5), dtype=torch.float64)
    image[:, :, 38:41] = torch.randn(1, 2, 3, *image.shape[3:], dtype=torch.float64)
    features, shifted = encoder(image), encoder(image.roll(2, dims=2))
    torch.testing.assert_close(features[:, :, 36:42], shifted[:, :, 38:44])


@pytest.mark.parametrize("size", [(33, 18), (5, 40, 3)])
def test_basic_unet_features_lie_on_the_grid_of_the_image(size):
    encoder = BasicUNetEncoder(len(size), 1, 6).eval()
    assert isinstance(encoder.unet, BasicUNet)
    image = torch.randn(1, 1, *size)
    features = encoder(image)
    assert features.shape == (1, 6, *size)
    whole = pad_at_end(image, [-n % 16 if n > 16 else 32 - n for n in size])
    window = (..., *(slice(0, n) for n in size))
    torch.testing.assert_close(features, encoder.unet(whole)[window])


def test_every_3d_convolution_of_the_basic_unet_is_the_one_that_trains_right_in_bf16():
    kinds = {type(module) for module in BasicUNetEncoder(3, 1, 6).modules() if isinstance(module, nn.Conv3d)}
    assert kinds == {Conv3d}
