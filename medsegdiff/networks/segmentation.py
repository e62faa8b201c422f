"""What sampling gives, what a callback sees of it, and how its images are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from medsegdiff.data.noise import case_names
from medsegdiff.errors import DataError, SpecError
from medsegdiff.networks.codec import MaskCodec
from medsegdiff.networks.schedulers.samplers import SamplerStep


@dataclass(frozen=True)
class Segmentation:
    """What sampling gives: moments over draws, on the grid of the image.

    Attributes:
        probabilities: mean over draws of the class probabilities (B, K, *S), summing to one over K.
        variance: half the sum over classes of the unbiased variance over draws (B, 1, *S): with two classes, that of
            the foreground's probability. Zeros for a single draw.
        draws: how many were drawn.
        steps: how many steps each group of draws took: fewer than were asked for where a callback stopped it. Empty
            for a supervised network.
    """

    probabilities: torch.Tensor
    variance: torch.Tensor
    draws: int
    steps: tuple[int, ...] = ()

    @classmethod
    def of_one_draw(cls, probabilities: torch.Tensor) -> Segmentation:
        """What a single draw gives, or a network that draws nothing."""
        return cls(probabilities, torch.zeros_like(probabilities[:, :1]), 1)


@dataclass(frozen=True)
class SegmenterStep:
    """What a callback sees after each step of each group of draws.

    Attributes:
        step: t, t_prev, x_t and the predicted x_0 of this step, (B * n, C, *S) with the n draws of an image together.
        draws: which draws these are.
        codec: turns `step.x_0` into probabilities.
    """

    step: SamplerStep
    draws: Sequence[int]
    codec: MaskCodec


StepCallback = Callable[[SegmenterStep], "bool | None"]
"""Sees each step; returning True stops this group of draws there, with that step's x_0 as the result."""


class StepCount:
    """A callback that counts the steps of each group of draws on the way to another.

    Args:
        then: the other; None where there is none.
    """

    def __init__(self, then: StepCallback | None = None) -> None:
        self.then = then
        self._counts: list[int] = []

    @property
    def steps(self) -> tuple[int, ...]:
        """How many steps each group took so far."""
        return tuple(self._counts)

    def __call__(self, seen: SegmenterStep) -> bool | None:
        if seen.step.index == 0:
            self._counts.append(0)
        self._counts[-1] += 1
        return None if self.then is None else self.then(seen)


def check_cases(image: torch.Tensor, cases: Sequence[str] | None, window: Sequence[slice] | None = None) -> list[str]:
    """A name for each image of a batch (B, channels, *S): those given, else their files'.

    Raises:
        DataError: not one name for each image.
        SpecError: a window without names.
    """
    if window is not None and cases is None:
        msg = "got a window without the case it is cut from; give cases: windows of an image share its noise"
        raise SpecError(msg)
    names = case_names(image) if cases is None else list(cases)
    if len(names) != len(image):
        msg = f"got {len(names)} case names for {len(image)} images; give one for each, or none"
        raise DataError(msg)
    return names
