"""The initial weights of cDAL's networks."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def glorot(layer: Layer) -> Layer:
    """The same layer with uniform weights of variance 2 / (fan_in + fan_out) and biases of zero (Glorot & Bengio)."""
    for parameter in layer.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return layer
