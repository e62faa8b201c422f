"""Padding to a multiple and cropping it off again."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.networks.blocks.padding import crop_to, pad_at_end, padding_to_multiple


@pytest.mark.parametrize(
    ("size", "factor", "minimum", "expected"),
    [
        ((8, 16), 8, 1, [0, 0]),
        ((1, 9), 8, 1, [7, 7]),
        ((1, 9), 8, 16, [15, 7]),
        ((5, 6, 7), 1, 1, [0, 0, 0]),
        ((17, 3, 16), 4, 8, [3, 5, 0]),
    ],
)
def test_padded_sizes_are_multiples_and_no_larger_than_needed(size, factor, minimum, expected):
    assert padding_to_multiple(size, factor, minimum=minimum) == expected


@pytest.mark.parametrize("size", [(3, 5), (3, 5, 2)])
def test_cropping_undoes_padding_and_what_was_added_is_zero(size):
    x = torch.randn(2, 3, *size)
    amounts = [n + 1 for n in range(len(size))]
    padded = pad_at_end(x, amounts)
    assert padded.shape == (2, 3, *(n + a for n, a in zip(size, amounts, strict=True)))
    assert torch.equal(crop_to(padded, size), x)
    assert padded.abs().sum() == pytest.approx(x.abs().sum().item())


def test_nothing_to_add_makes_no_copy():
    x = torch.randn(1, 1, 4, 4)
    assert pad_at_end(x, [0, 0]) is x
