"""Running moments against torch's."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.networks.moments import RunningMoments


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 2, 4, 3, 5)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("count", [2, 3, 17])
def test_moments_of_a_stream_are_those_of_the_whole(count, shape):
    values = torch.randn(count, *shape).softmax(dim=2)
    moments = RunningMoments()
    for value in values:
        moments.add(value)
    torch.testing.assert_close(moments.mean, values.mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(moments.variance(), values.var(dim=0).sum(dim=1, keepdim=True) / 2)


def test_the_mean_of_a_constant_stays_as_precise_as_float32():
    value = torch.tensor([[[0.0], [1.0], [0.5], [1e-6], [1 / 3]]])
    moments = RunningMoments()
    for _ in range(1000):
        moments.add(value)
    torch.testing.assert_close(moments.mean, value, rtol=0, atol=2.0**-24)
    assert moments.variance().max() < 1e-14


def test_draws_that_hardly_differ_are_told_apart():
    value = torch.full((1, 2, 3), 0.5)
    moments = RunningMoments()
    moments.add(value, value + torch.tensor([[1e-6, 1e-5, 1e-4]]))
    torch.testing.assert_close(
        moments.variance()[0, 0].sqrt(), torch.tensor([1e-6, 1e-5, 1e-4]) / 2**0.5, rtol=0.1, atol=0
    )


def test_the_variance_of_two_classes_is_that_of_either():
    foreground = torch.rand(5, 1, 1, 3)
    moments = RunningMoments()
    moments.add(*torch.cat([1 - foreground, foreground], dim=2))
    torch.testing.assert_close(moments.variance(), foreground.var(dim=0))


def test_a_single_tensor_has_no_variance_and_is_not_changed_by_later_ones():
    first = torch.ones(1, 2, 1)
    moments = RunningMoments()
    moments.add(first)
    assert not moments.variance().any()
    assert moments.mean.tolist() == first.tolist()
    moments.add(torch.zeros(1, 2, 1))
    assert first.unique().tolist() == [1]


def test_the_mean_takes_three_bytes_a_number():
    moments = RunningMoments()
    moments.add(torch.rand(1, 16, 8, 8, 8))
    kept = [tensor for tensor in vars(moments).values() if isinstance(tensor, torch.Tensor)]
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == (3 * 16 + 4) * 8**3
