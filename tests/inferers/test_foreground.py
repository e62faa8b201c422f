from __future__ import annotations

import pytest
import torch

from medsegdiff.inferers.foreground import foreground_box


def framed(value: float = -2.0, channels: int = 2) -> torch.Tensor:
    """An image (channels, 10, 8, 6) that is empty but for a box."""
    image = torch.full((channels, 10, 8, 6), value)
    image[-1, 3:7, 2:5, 1:2] = torch.arange(12.0).view(4, 3, 1)
    return image


BOX = (slice(3, 7), slice(2, 5), slice(1, 2))


@pytest.mark.parametrize("value", [-2.0, 0.0, 20.0])
def test_what_differs_from_the_value_in_all_corners_is_foreground(value):
    assert foreground_box(framed(value if value else -0.0)) == BOX


def test_the_frame_may_differ_between_channels():
    image = framed()
    image[0] = 5.0
    assert foreground_box(image) == BOX
    image[0, 9, 4, 3] = 6.0
    assert foreground_box(image) == (slice(3, 10), slice(2, 5), slice(1, 4))


def test_without_a_frame_all_is_foreground():
    image = framed()
    image[1, -1, 0, -1] = 0.5
    assert foreground_box(image) == (slice(0, 10), slice(0, 8), slice(0, 6))


def test_a_number_is_a_threshold_for_any_channel():
    assert foreground_box(framed(), 8.5) == (slice(6, 7), slice(2, 5), slice(1, 2))
    assert foreground_box(framed(), -3.0) == (slice(0, 10), slice(0, 8), slice(0, 6))


def test_a_function_makes_a_mask():
    assert foreground_box(framed(), lambda image: image[1:] == 4.0) == (slice(4, 5), slice(3, 4), slice(1, 2))


@pytest.mark.parametrize("foreground", [None, 100.0, lambda image: image > 100])
def test_without_foreground_the_box_is_empty(foreground):
    box = foreground_box(torch.zeros(1, 5, 4), foreground)
    assert any(part.start == part.stop for part in box)


def test_pictures_have_boxes_too():
    image = torch.zeros(3, 6, 6)
    image[2, 4, 1:3] = 1
    assert foreground_box(image) == (slice(4, 5), slice(1, 3))
