"""The sinusoidal features of the diffusion time."""

from __future__ import annotations

import math

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.time_embedding import TimeEmbedding


def test_follows_the_formula():
    embedding = TimeEmbedding(4, num_train_timesteps=10)
    for t in (0, 3, 9):
        time = 10_000 * (t + 1) / 10
        expected = [math.cos(time), math.cos(time / 100), math.sin(time), math.sin(time / 100)]
        assert embedding(torch.tensor([t]))[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_depends_on_the_share_of_the_schedule_alone():
    short, long = TimeEmbedding(8, 10), TimeEmbedding(8, 100)
    torch.testing.assert_close(short(torch.tensor([0, 9])), long(torch.tensor([9, 99])))


def test_every_time_step_of_the_paper_has_its_own_features():
    features = TimeEmbedding(256, 1001)(torch.arange(1001))
    assert features.shape == (1001, 256)
    distance = torch.cdist(features, features) + 1e3 * torch.eye(1001)
    assert distance.min() > 1.0


def test_has_no_weights_and_stays_in_float32():
    embedding = TimeEmbedding(8, 10)
    assert not embedding.state_dict()
    assert embedding(torch.tensor([1], dtype=torch.int32)).dtype == torch.float32


def test_an_odd_dimension_is_refused():
    with pytest.raises(SpecError, match="must be even, got 5"):
        TimeEmbedding(5, 10)
