"""The moving average of the weights, by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medsegdiff.engines.ema import make_ema
from medsegdiff.errors import SpecError


class Tiny(nn.Module):
    """One weight, one float buffer and one counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))


def set_to(network: Tiny, value: float) -> None:
    network.weight.data.fill_(value)
    network.mean.fill_(10 * value)
    network.count.fill_(int(value))


@pytest.mark.parametrize("decay", [0.999, 0.4, 0.0])
def test_it_follows_with_a_decay_that_warms_up(decay):
    network = Tiny()
    ema = make_ema(network, decay=decay)
    values = [3.0, 5.0, -2.0, 8.0, 1.0]
    set_to(network, values[0])
    ema.update_parameters(network)
    expected = values[0]  # the first update copies
    assert ema.module.weight.item() == expected
    for n, value in enumerate(values[1:], start=1):
        set_to(network, value)
        ema.update_parameters(network)
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-5)
        assert ema.module.mean.item() == pytest.approx(10 * expected, rel=1e-5)
        assert ema.module.count.item() == int(value)


def test_after_many_steps_it_spans_the_last_ninth():
    """The mean age of what a warming average holds is n / 9; here the weights are the step numbers."""
    network = Tiny()
    ema = make_ema(network, decay=0.9999)
    for n in range(900):
        set_to(network, float(n))
        ema.update_parameters(network)
    assert 899 - ema.module.weight.item() == pytest.approx(90, rel=0.05)


def test_it_neither_trains_nor_shares_memory():
    network = Tiny().train()
    ema = make_ema(network)
    set_to(network, 7.0)
    assert ema.module.weight.item() == 0
    assert not any(p.requires_grad for p in ema.parameters())
    assert network.weight.requires_grad and network.training
    assert not ema.training and not ema.module.training
    ema.update_parameters(network)
    assert not ema.module.training and not ema.module.weight.requires_grad


def test_its_state_goes_on_where_it_stopped():
    network = Tiny()
    ema = make_ema(network)
    for value in (1.0, 2.0):
        set_to(network, value)
        ema.update_parameters(network)
    resumed = make_ema(Tiny())
    resumed.load_state_dict(copy.deepcopy(ema.state_dict()))
    set_to(network, 5.0)
    for one in (ema, resumed):
        one.update_parameters(network)
    assert torch.equal(ema.module.weight, resumed.module.weight)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(SpecError, match=r"decay must lie in \[0, 1\), got"):
        make_ema(Tiny(), decay=decay)
