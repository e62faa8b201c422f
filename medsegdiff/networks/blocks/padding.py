"""Padding to sizes that a U-Net can halve, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F


def padding_to_multiple(size: Sequence[int], factor: int, *, minimum: int = 1) -> list[int]:
    """How much to add at the end of each axis so that it is a multiple of `factor` and at least `minimum`."""
    return [-(-max(n, minimum) // factor) * factor - n for n in size]


def pad_at_end(x: torch.Tensor, amounts: Sequence[int]) -> torch.Tensor:
    """Add zeros at the end of each spatial axis of x (B, C, *S); zero is the mean of a normalised image."""
    if not any(amounts):
        return x
    # F.pad counts axes from the last to the first and wants (before, after) for each.
    return F.pad(x, [n for amount in reversed(amounts) for n in (0, amount)])


def crop_to(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Keep the first `size` entries of each spatial axis of x (B, C, *S): what `pad_at_end` had added goes."""
    window: tuple[Any, ...] = (..., *(slice(0, n) for n in size))
    return x[window]
