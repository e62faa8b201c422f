"""How much memory a network takes for one window, found out without running it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from medsegdiff.networks.blocks.autocast import autocast
from medsegdiff.networks.live_bytes import MARGIN, LiveBytes, weightless, without_content
from medsegdiff.networks.segmenter import DiffusionSegmenter

FEATURES = 256
"""Where a network cannot be followed: float32 numbers that are taken to live at once for each voxel of a window."""


@dataclass(frozen=True)
class WindowMemory:
    """Bytes that one window takes on the network's device, weights left out.

    Attributes:
        encode: at most, while its condition is made.
        condition: of the condition; 0 where that is the image itself, which costs nothing to cut out again.
        denoise: at most, while x_0 is predicted for one draw, with all that goes in and comes out.
        measured: whether the network could be followed; else `FEATURES` stands in.
    """

    encode: int
    condition: int
    denoise: int
    measured: bool = True


_known: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], WindowMemory]] = weakref.WeakKeyDictionary()


def window_memory(
    segmenter: DiffusionSegmenter, image_channels: int, roi_size: Sequence[int], device: torch.device
) -> WindowMemory:
    """What one window (1, image_channels, *roi_size) takes; the network sees tensors that have no content.

    Args:
        segmenter: with the network, on `device`.
        image_channels: of the image.
        roi_size: of the window.
        device: the network's.
    """
    key = (image_channels, tuple(roi_size), device, segmenter.amp, segmenter.mask_channels)
    known = _known.setdefault(segmenter.denoiser, {})
    if key not in known:
        try:
            known[key] = _follow(segmenter, image_channels, roi_size, device)
        except (RuntimeError, TypeError):  # what depends on content, such as `.item()`, or cannot be copied
            taken = FEATURES * math.prod(roi_size) * 4
            known[key] = WindowMemory(taken, taken, taken, measured=False)
    return known[key]


@torch.no_grad()
def _follow(
    segmenter: DiffusionSegmenter, image_channels: int, roi_size: Sequence[int], device: torch.device
) -> WindowMemory:
    with without_content() as fake:
        denoiser = weightless(segmenter.denoiser, fake)
        with LiveBytes() as live, autocast(device, segmenter.amp):
            image = torch.empty(1, image_channels, *roi_size, device=device)
            condition = denoiser.encode(image)
            encode = live.peak
            free = condition is image
            size = condition.untyped_storage().nbytes()
            live.peak = live.bytes
            x_t = torch.empty(1, segmenter.mask_channels, *roi_size, device=device)
            x0_prev = None if segmenter.supervised else torch.empty_like(x_t)
            t = torch.zeros(1, dtype=torch.long, device=device)
            features = getattr(denoiser, "latent_dim", 0)
            z = torch.empty(1, features, device=device) if features else None
            denoiser(x_t, t, condition, x0_prev, z)
            denoise = live.peak
    return WindowMemory(math.ceil(MARGIN * encode), 0 if free else size, math.ceil(MARGIN * denoise))
