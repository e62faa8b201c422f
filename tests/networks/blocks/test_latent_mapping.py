"""From a latent to a style."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.networks.blocks.latent_mapping import LatentMapping


def test_the_length_of_z_does_not_matter_but_its_direction_does():
    mapping, z = LatentMapping(6, 10), torch.randn(4, 6)
    assert mapping(z).shape == (4, 10)
    torch.testing.assert_close(mapping(z), mapping(3 * z))
    assert (mapping(z) - mapping(-z)).abs().max() > 1e-2


def test_a_z_of_zeros_gives_a_number():
    assert torch.isfinite(LatentMapping(6, 10)(torch.zeros(1, 6))).all()


def test_it_has_one_layer_more_than_asked_for():
    mapping = LatentMapping(6, 10, layers=2)
    widths = [(m.in_features, m.out_features) for m in mapping.modules() if isinstance(m, nn.Linear)]
    assert widths == [(6, 10), (10, 10), (10, 10)]
