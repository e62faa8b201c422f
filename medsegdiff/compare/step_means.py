"""What a sampling thought at each of its steps: means over draws, gathered while it runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from medsegdiff.inferers.slicewise import Segmenter, SlicewiseSegmenter
from medsegdiff.networks.segmenter import SegmenterStep


class StepMeans:
    """A step callback that keeps the mean over draws of the class probabilities of one image, step by step.

    It needs to see the whole image at once, which an inferer shows that averages windows at every step, or whose one
    window covers the image. Where it shows windows, or some of the slices, nothing is kept: sampling each to its end,
    there is no prediction of the whole image before the end.

    Memory: a float32 map for each class and step that is kept, and for each class and draw with `draws`, on the CPU.

    Args:
        network: that samples.
        grid: size (*S) of the image.
        steps: after which steps to look, counted from 1.
        draws: keep the probabilities of each draw at this step; None for none.
    """

    def __init__(
        self, network: Segmenter, grid: Sequence[int], *, steps: Collection[int], draws: int | None = None
    ) -> None:
        self._axis = network.axis if isinstance(network, SlicewiseSegmenter) else None
        self._grid = tuple(grid)
        self._steps = frozenset(steps)
        self._at = draws
        self._sums: dict[int, torch.Tensor] = {}
        self._counts: dict[int, int] = {}
        self._in_parts = False
        self._draws: list[torch.Tensor] = []

    def __call__(self, seen: SegmenterStep) -> None:
        number = seen.step.index + 1
        if self._in_parts or not (number in self._steps or number == self._at):
            return
        x_0 = self._whole(seen.step.x_0, len(seen.draws))
        if x_0 is None:
            self._in_parts = True
            self._sums, self._counts, self._draws = {}, {}, []
            return
        whole = seen.codec.probabilities(x_0).float().cpu()  # (n, K, *S)
        if number in self._steps:
            total = whole.sum(dim=0)  # (K, *S)
            self._sums[number] = self._sums[number] + total if number in self._sums else total
            self._counts[number] = self._counts.get(number, 0) + len(whole)
        if number == self._at:
            self._draws.extend(whole.unbind())

    @property
    def means(self) -> dict[int, torch.Tensor]:
        """The mean probabilities (K, *S) after each of the steps, by its number; empty where parts were shown."""
        return {number: total / self._counts[number] for number, total in sorted(self._sums.items())}

    @property
    def draws(self) -> list[torch.Tensor]:
        """The probabilities (K, *S) of each draw; empty where parts were shown."""
        return self._draws

    def _whole(self, x_0: torch.Tensor, draws: int) -> torch.Tensor | None:
        """Of the whole image (n, C, *S), from that or from the slices of a volume (D * n, C, *S_slice)."""
        shape, grid, axis = x_0.shape, self._grid, self._axis
        if axis is None:
            return x_0 if tuple(shape[2:]) == grid and shape[0] == draws else None
        plane = list(grid)
        depth = plane.pop(axis)
        if list(shape[2:]) != plane or shape[0] != depth * draws:
            return None
        slices = x_0.unflatten(0, (depth, draws)).transpose(0, 1)  # (n, D, C, *S_slice)
        return slices.movedim(1, axis)
