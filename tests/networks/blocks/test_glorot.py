"""Initial weights by the sizes of both sides."""

from __future__ import annotations

import pytest
from torch import nn

from medsegdiff.networks.blocks.glorot import glorot


def test_weights_have_the_variance_of_both_fans_and_biases_are_zero():
    layer = glorot(nn.Conv2d(20, 60, 3))
    assert layer.weight.var().item() == pytest.approx(2 / (9 * 20 + 9 * 60), rel=0.05)
    assert layer.weight.abs().max().item() <= (6 / (9 * 80)) ** 0.5
    assert not layer.bias.any()
