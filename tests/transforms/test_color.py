"""Colour jitter agrees with Pillow's enhancements and is repeatable."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image, ImageEnhance

from medsegdiff.errors import DataError, SpecError
from medsegdiff.transforms.color import RandColorJitterd


@pytest.fixture
def picture() -> torch.Tensor:
    # Away from 0 and 255, so that nothing is clipped and 8-bit rounding is all that differs.
    return torch.randint(70, 150, (3, 12, 9)).float()


def jitter(**options: float) -> RandColorJitterd:
    return RandColorJitterd("image", **options).set_random_state(seed=6)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_each_strength_is_what_pillow_does(picture, name, enhance):
    transform = jitter(**{name: 0.4})
    found = transform({"image": picture})["image"]
    factor = dict(transform.changes)[name]
    pixels = picture.numpy().astype(np.uint8).transpose(1, 2, 0)
    wanted = np.asarray(enhance(Image.fromarray(pixels)).enhance(factor)).transpose(2, 0, 1)
    assert abs(factor - 1) > 0.01
    np.testing.assert_allclose(found.numpy(), wanted, atol=2)


def test_the_hue_turns_by_the_drawn_share_of_the_circle(picture):
    transform = jitter(hue=0.1)
    found = transform({"image": picture})["image"][:, 4, 5].double().numpy() / 255
    shift = dict(transform.changes)["hue"]
    h, s, v = colorsys.rgb_to_hsv(*(picture[:, 4, 5].double().numpy() / 255))
    np.testing.assert_allclose(found, colorsys.hsv_to_rgb((h + shift) % 1, s, v), atol=1e-3)


def test_no_strength_changes_nothing(picture):
    torch.testing.assert_close(jitter()({"image": picture})["image"], picture, atol=1e-3, rtol=0)


def test_a_seed_gives_the_same_colours_and_another_gives_others(picture):
    options = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    first, again = (jitter(**options)({"image": picture})["image"] for _ in range(2))
    other = RandColorJitterd("image", **options).set_random_state(seed=4)({"image": picture})["image"]
    torch.testing.assert_close(first, again)
    assert (first - other).abs().max() > 1


def test_the_order_of_the_changes_is_drawn():
    transform = jitter(brightness=0.4, hue=0.1)
    orders = set()
    for _ in range(20):
        transform.randomize()
        orders.add(tuple(name for name, _ in transform.changes))
    assert len(orders) > 5


def test_metadata_and_range_are_kept(picture):
    image = MetaTensor(picture, meta={"filename_or_obj": "a.png"})
    found = jitter(brightness=3.0)({"image": image})["image"]
    assert isinstance(found, MetaTensor) and found.meta["filename_or_obj"] == "a.png"
    assert found.min() >= 0 and found.max() <= 255


def test_bad_input(picture):
    with pytest.raises(DataError, match="got a picture of 1 channels"):
        jitter(hue=0.1)({"image": picture[:1]})
    with pytest.raises(SpecError, match="a hue of 0 to"):
        jitter(hue=0.7)
