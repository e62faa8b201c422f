"""The embedding of a few time steps."""

from __future__ import annotations

import torch
from torch import nn

from medsegdiff.networks.blocks.step_embedding import StepEmbedding


def test_each_of_a_few_steps_is_told_apart():
    embedding = StepEmbedding(16, 32, nn.SiLU())
    out = embedding(torch.arange(4))
    assert out.shape == (4, 32)
    distances = torch.cdist(out, out) + 10 * torch.eye(4)
    assert distances.min() > 0.1


def test_its_sinusoids_are_those_of_the_whole_numbers():
    sinusoids = StepEmbedding(4, 8, nn.SiLU()).sinusoid(torch.tensor([0, 2]))
    angles = torch.tensor([[1.0, 0.01], [3.0, 0.03]])
    torch.testing.assert_close(sinusoids, torch.cat([angles.cos(), angles.sin()], dim=1))
