"""Activations made twice rather than kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsegdiff.networks.blocks.checkpointing import call
from medsegdiff.networks.blocks.zero_init import zeroed


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.calls = 0

    def forward(self, x: torch.Tensor, y: torch.Tensor | None) -> torch.Tensor:
        self.calls += 1
        return self.weight * x**2 + (0 if y is None else y)


@pytest.mark.parametrize(("recompute", "calls"), [(False, 1), (True, 2)])
def test_a_recomputed_call_runs_again_in_the_backward_pass(recompute, calls):
    module, x = Counting(), torch.tensor([2.0], requires_grad=True)
    call(module, x, None, recompute=recompute).sum().backward()
    assert module.calls == calls
    assert x.grad is not None and x.grad.item() == 12
    assert module.weight.grad is not None and module.weight.grad.item() == 4


def test_without_a_gradient_there_is_nothing_to_recompute():
    module = Counting()
    with torch.no_grad():
        assert call(module, torch.tensor([2.0]), torch.tensor([1.0]), recompute=True).item() == 13
    assert module.calls == 1


def test_a_zeroed_layer_is_the_same_layer_at_zero():
    layer = nn.Conv2d(2, 3, 3)
    assert zeroed(layer) is layer
    assert not layer.weight.any() and layer.bias is not None and not layer.bias.any()
    assert layer.weight.requires_grad
