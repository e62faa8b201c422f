"""Depths of a U-Net's levels."""

from __future__ import annotations

import pytest

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.levels import level_depths


def test_one_number_serves_all_levels():
    assert level_depths(2, (8, 16, 32), 2, least=1) == [2, 2, 2]
    assert level_depths(3, (8, 16), (0, 1), least=0) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, (8,), 1), {}, "spatial_dims must be 2 or 3, got 4"),
        ((2, (8, 16), (1,)), {}, "num_res_blocks has 1 entries for 2 levels of channels"),
        ((2, (), 1), {}, "0 entries for 0 levels"),
        ((2, (8, 16), (1, 0)), {}, "give 1 or more blocks for each level"),
        ((2, (8, 16), 1), {"attention_levels": (1, 2)}, r"attention_levels holds \[2\]; the levels .* are 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, message):
    with pytest.raises(SpecError, match=message):
        level_depths(*arguments, least=1, **options)
