"""Where in an image there is anything to segment."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from monai.transforms.utils import generate_spatial_bounding_box

from medsegdiff.inferers.windows import Box

Foreground = float | Callable[[torch.Tensor], torch.Tensor] | None
"""What is foreground, see `foreground_box`."""


def foreground_box(image: torch.Tensor, foreground: Foreground = None) -> Box:
    """The box around the foreground of an image, without any slice along some axis where there is none.

    Args:
        image: (channels, *S), as the network sees it.
        foreground: a number for what lies above it in any channel; a function that makes a mask (channels or 1, *S)
            of the image; or None for all that differs from an empty frame, the one value that all corners of the image
            have: what was padded, masked out or clipped before it was normalised. Where corners differ, there is no
            such frame and all is foreground.
    """
    if callable(foreground):
        mask = foreground(image)  # (channels or 1, *S)
    elif foreground is not None:
        mask = image > foreground  # (channels, *S)
    else:
        ends: list[tuple[Any, ...]] = list(product([slice(None)], *[(0, n - 1) for n in image.shape[1:]]))
        corners = torch.stack([image[corner] for corner in ends])  # (2^axes, channels)
        if not torch.equal(corners, corners[:1].expand_as(corners)):
            return tuple(slice(0, n) for n in image.shape[1:])
        mask = image != corners[0].view(-1, *[1] * (image.ndim - 1))  # (channels, *S)
    start, stop = generate_spatial_bounding_box(mask, select_fn=lambda voxels: voxels > 0)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
