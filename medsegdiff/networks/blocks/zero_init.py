"""Layers that start at zero."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def zeroed(layer: Layer) -> Layer:
    """The same layer with all its parameters at zero, so that the sum that it feeds starts as its other summand."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
