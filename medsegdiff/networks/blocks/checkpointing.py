"""Calls whose activations are made twice rather than kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def call(module: nn.Module, *inputs: Any, recompute: bool) -> torch.Tensor:
    """`module(*inputs)`; with `recompute`, its activations are computed again in the backward pass, to save memory."""
    if recompute and torch.is_grad_enabled():
        output: torch.Tensor = checkpoint(module, *inputs, use_reentrant=False)
        return output
    return module(*inputs)
