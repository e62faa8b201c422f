"""The number of groups of a group norm."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.networks.blocks.group_norm import make_group_norm


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(128, 32), (256, 32), (384, 32), (640, 32), (1024, 32), (96, 24), (64, 16), (36, 9), (12, 3), (7, 1), (1, 1)],
)
def test_there_are_32_groups_where_each_keeps_four_channels_and_fewer_elsewhere(channels, groups):
    norm = make_group_norm(channels)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (groups, channels, 1e-5)


@pytest.mark.parametrize("least", [1, 4, 8])
def test_groups_fill_the_channels_and_are_as_many_as_may_be(least):
    for channels in range(1, 300):
        allowed = [n for n in range(1, 33) if channels % n == 0 and channels // n >= least]
        assert make_group_norm(channels, min_group_size=least).num_groups == max(allowed, default=1)


@pytest.mark.parametrize("channels", [2, 4, 8, 20, 32, 128])
def test_what_is_added_to_single_channels_is_not_taken_away_again(channels):
    norm = make_group_norm(channels)
    x, shift = torch.randn(1, channels, 4, 4), torch.randn(1, channels, 1, 1)
    assert (norm(x + 3 * shift) - norm(x)).abs().max() > 0.1
