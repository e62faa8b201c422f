"""How much memory a network takes for one window, found out without running it."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medsegdiff.networks.blocks.autocast import autocast
from medsegdiff.networks.segmenter import DiffusionSegmenter

MARGIN = 1.5
"""Tensors are counted; convolution libraries take more for themselves. On a CPU up to half as much was seen."""

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
            with _quiet():
                known[key] = _follow(segmenter, image_channels, roi_size, device)
        except (RuntimeError, TypeError):  # what depends on content, such as `.item()`, or cannot be copied
            taken = FEATURES * math.prod(roi_size) * 4
            known[key] = WindowMemory(taken, taken, taken, measured=False)
    return known[key]


@torch.no_grad()
def _follow(
    segmenter: DiffusionSegmenter, image_channels: int, roi_size: Sequence[int], device: torch.device
) -> WindowMemory:
    from torch._subclasses.fake_tensor import FakeTensorMode

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    # A copy whose weights have no content, so that nothing that the network remembers of a call stays with it.
    weights = [*segmenter.denoiser.parameters(), *segmenter.denoiser.buffers()]
    denoiser = copy.deepcopy(segmenter.denoiser, {id(tensor): fake.from_tensor(tensor) for tensor in weights})
    with torch.compiler.set_stance("force_eager"), fake, _LiveBytes() as live, autocast(device, segmenter.amp):
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch logs, with a traceback, about a network that cannot be followed."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside of it and live: `bytes` at present, `peak` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, torch.Tensor):
                self._count(made.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:  # a view
            return
        self._sizes[key] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)
