from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.inferers import early_stop
from medsegdiff.inferers.early_stop import StopWhenUnchanged, labels_of
from medsegdiff.networks.codec import OneHotCodec, SingleChannelCodec
from medsegdiff.networks.schedulers import SamplerStep
from medsegdiff.networks.segmenter import SegmenterStep

CODEC = SingleChannelCodec()


def step(index: int, foreground: int, last: int = 9, draws: int = 2) -> SegmenterStep:
    """A step whose first `foreground` voxels of 100 are foreground, 50 in each of two draws."""
    x_0 = torch.where(torch.arange(100) < foreground, 1.0, -1.0).view(draws, 1, -1, 10)
    t_prev = -1 if index == last else 100 - index
    return SegmenterStep(SamplerStep(index, 101 - index, t_prev, x_0, x_0), range(draws), CODEC)


@pytest.mark.parametrize(
    ("foregrounds", "share", "stops"),
    [
        ([10, 20, 25], 0.06, [False, False, True]),
        ([10, 20, 25, 26], 0.05, [False, False, False, True]),
        ([10, 10], 0.001, [False, True]),
        ([10, 90], 1.0, [False, True]),
        ([10, 9, 8], 0.01, [False, False, False]),
    ],
)
def test_it_stops_when_fewer_labels_than_that_share_changed(foregrounds, share, stops):
    callback = StopWhenUnchanged(share)
    assert [callback(step(index, foreground)) for index, foreground in enumerate(foregrounds)] == stops


def test_a_new_group_is_not_compared_with_the_one_before():
    callback = StopWhenUnchanged(0.5)
    assert [callback(step(index, 10)) for index in (0, 1, 0, 1)] == [False, True, False, True]
    assert [callback(step(index, 10, last=0)) for index in (0, 0)] == [False, False]


def test_groups_may_differ_in_size():
    callback = StopWhenUnchanged(0.5)
    assert [callback(step(index, 10, draws=draws)) for index, draws in ((0, 2), (0, 1), (1, 1))] == [0, 0, 1]


@pytest.mark.parametrize(("answer", "stops"), [(None, False), (True, True), (1, False)])
def test_another_callback_sees_every_step_and_may_stop_too(answer, stops):
    seen = []
    callback = StopWhenUnchanged(0.01, lambda one: seen.append(one.step.index) or answer)
    assert [callback(step(index, 10 * index)) for index in range(3)] == [stops] * 3
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("share", [0, -0.1, 1.5])
def test_other_shares_are_refused(share):
    with pytest.raises(SpecError, match=r"stop_when_unchanged is .*; give a share of the voxels above 0"):
        StopWhenUnchanged(share)


@pytest.mark.parametrize("codec", [OneHotCodec(5), CODEC], ids=["one_hot", "single_channel"])
@pytest.mark.parametrize("at_once", [1, 40, 10**6])
@pytest.mark.parametrize("size", [(7, 5), (7, 5, 4)])
def test_labels_are_those_of_the_probabilities_however_many_at_once(monkeypatch, codec, at_once, size):
    monkeypatch.setattr(early_stop, "_VOXELS_AT_ONCE", at_once)
    x_0 = torch.randn(3, codec.channels, *size)
    assert torch.equal(labels_of(x_0, codec).long(), codec.probabilities(x_0).argmax(dim=1))
