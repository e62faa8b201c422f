"""Running moments against torch's."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.networks.moments import RunningMoments


@pytest.mark.parametrize("count", [2, 3, 17])
def test_moments_of_a_stream_are_those_of_the_whole(count):
    values = 100 + torch.randn(count, 2, 3, dtype=torch.float64)
    moments = RunningMoments()
    for value in values:
        moments.add(value)
    torch.testing.assert_close(moments.mean, values.mean(dim=0))
    torch.testing.assert_close(moments.variance(), values.var(dim=0).sum(dim=1, keepdim=True) / 2)


def test_the_variance_of_two_classes_is_that_of_either():
    foreground = torch.rand(5, 1, 1, 3)
    moments = RunningMoments()
    moments.add(*torch.cat([1 - foreground, foreground], dim=2))
    torch.testing.assert_close(moments.variance(), foreground.var(dim=0))


def test_a_single_tensor_has_no_variance_and_is_not_changed_by_later_ones():
    first = torch.ones(1, 2)
    moments = RunningMoments()
    moments.add(first)
    assert not moments.variance().any()
    moments.add(torch.zeros(1, 2))
    assert first.tolist() == [[1, 1]]
