"""Label maps to x_0 and back."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import DataError, SpecError
from medsegdiff.networks.codec import MaskCodec, OneHotCodec, SingleChannelCodec, build_codec

CODECS = [OneHotCodec(2), OneHotCodec(5), SingleChannelCodec()]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=["one_hot_2", "one_hot_5", "single_channel"])
both_dims = pytest.mark.parametrize("dims", [2, 3])
SIZE = (5, 4, 3)


def labels(codec: MaskCodec, dims: int) -> torch.Tensor:
    return torch.randint(codec.num_classes, (2, 1, *SIZE[:dims]))


@each_codec
@both_dims
def test_a_label_map_survives_the_round_trip(codec, dims):
    label = labels(codec, dims)
    x_0 = codec.encode(label)
    assert x_0.shape == (2, codec.channels, *SIZE[:dims])
    assert x_0.dtype == torch.float32
    assert set(x_0.unique().tolist()) == {-1.0, 1.0}
    probabilities = codec.probabilities(x_0)
    assert torch.equal(probabilities.argmax(dim=1, keepdim=True), label)
    torch.testing.assert_close(probabilities.amax(dim=1), torch.ones(2, *SIZE[:dims]), atol=1e-5, rtol=0)


@both_dims
def test_one_hot_holds_one_class_a_voxel(dims):
    codec = OneHotCodec(4)
    label = labels(codec, dims)
    x_0 = codec.encode(label)
    for k in range(4):
        assert torch.equal(x_0[:, k] > 0, label[:, 0] == k)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32, torch.int64])
def test_labels_of_any_numeric_type_are_taken(dtype):
    label = torch.tensor([[[[0, 1], [2, 0]]]])
    assert torch.equal(OneHotCodec(3).encode(label.to(dtype)), OneHotCodec(3).encode(label))


@each_codec
@both_dims
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_probabilities_of_any_x_0_sum_to_one(codec, dims, spread):
    probabilities = codec.probabilities(spread * torch.randn(2, codec.channels, *SIZE[:dims]))
    assert probabilities.shape == (2, codec.num_classes, *SIZE[:dims])
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, *SIZE[:dims]))


def test_a_softmax_comes_back_as_it_was():
    p = torch.randn(2, 4, 5, 5).softmax(dim=1)
    torch.testing.assert_close(OneHotCodec(4).probabilities(2 * p - 1), p, atol=1e-5, rtol=1e-4)


def test_where_no_class_is_likely_all_are_as_likely():
    torch.testing.assert_close(OneHotCodec(4).probabilities(torch.full((1, 4, 1), -5.0)), torch.full((1, 4, 1), 0.25))


def test_half_precision_predictions_give_float32_probabilities():
    assert OneHotCodec(2).probabilities(torch.zeros(1, 2, 3, dtype=torch.bfloat16)).dtype == torch.float32


@each_codec
@pytest.mark.parametrize("value", [-1, 5])
def test_values_that_are_no_class_are_refused(codec, value):
    label = torch.zeros(1, 1, 2, 2, dtype=torch.long)
    label[..., 0, 0] = value
    low, high = min(value, 0), max(value, 0)
    allowed = f"label values run from {low} to {high}, allowed are 0 to {codec.num_classes - 1}; map other values"
    with pytest.raises(DataError, match=allowed):
        codec.encode(label)


def test_values_between_classes_are_refused():
    with pytest.raises(DataError, match=r"label values are not whole numbers.*nearest"):
        OneHotCodec(3).encode(torch.tensor([[[[0.0, 0.7], [2.0, 1.0]]]]))


@each_codec
def test_a_label_of_several_channels_is_refused(codec):
    with pytest.raises(DataError, match=r"got labels of shape \(2, 3, 4, 4\); allowed is one channel"):
        codec.encode(torch.zeros(2, 3, 4, 4))


def test_codecs_are_found_by_name():
    assert isinstance(build_codec("one_hot", 7), OneHotCodec)
    assert build_codec("one_hot", 7).channels == 7
    single = build_codec("single_channel", 2)
    assert (single.num_classes, single.channels) == (2, 1)


@pytest.mark.parametrize(("classes", "channels"), [(2, 1), (3, 3), (5, 5)])
def test_auto_takes_one_channel_for_two_classes_and_one_a_class_for_more(classes, channels):
    codec = build_codec("auto", classes)
    assert (codec.num_classes, codec.channels) == (classes, channels)


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("single_channel", 3, "holds 2 classes, got 3; use one_hot"),
        ("one_hot", 1, "at least 2 classes, background included, got 1"),
        ("binary", 2, "codec 'binary' does not exist; use one of auto, one_hot, single_channel"),
        ("auto", 1, "at least 2 classes, background included, got 1"),
    ],
)
def test_codecs_that_do_not_exist_are_refused(name, classes, message):
    with pytest.raises(SpecError, match=message):
        build_codec(name, classes)
