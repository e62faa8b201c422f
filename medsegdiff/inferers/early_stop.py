"""Ending a sampling once its result has settled."""

from __future__ import annotations

import torch

from medsegdiff.errors import SpecError
from medsegdiff.networks.codec import MaskCodec
from medsegdiff.networks.segmenter import SegmenterStep, StepCallback

_VOXELS_AT_ONCE = 2**22


class StopWhenUnchanged:
    """A step callback that stops a group of draws when the labels of its predicted x_0 hardly change any more.

    Compared are two consecutive steps, so that at least two are taken. What is stopped has the last step's x_0 as its
    result.

    Args:
        share: of the voxels of all draws of the group, in (0, 1]: below it, the group is stopped.
        then: another callback, which sees each step too and may stop as well.

    Raises:
        SpecError: no such share.
    """

    def __init__(self, share: float, then: StepCallback | None = None) -> None:
        if not 0 < share <= 1:
            msg = f"stop_when_unchanged is {share}; give a share of the voxels above 0, up to 1, or None"
            raise SpecError(msg)
        self.share = share
        self.then = then
        self._labels: torch.Tensor | None = None

    def __call__(self, seen: SegmenterStep) -> bool:
        labels = labels_of(seen.step.x_0, seen.codec)
        before = None if seen.step.index == 0 else self._labels
        self._labels = labels
        settled = before is not None and int((labels != before).sum()) < self.share * labels.numel()
        if settled or seen.step.t_prev < 0:
            self._labels = None  # of no use to the next group, and as large as the volume
        stopped = self.then is not None and self.then(seen) is True
        return settled or stopped


def labels_of(x_0: torch.Tensor, codec: MaskCodec) -> torch.Tensor:
    """The most probable class of every voxel (B, *S) of a predicted x_0 (B, C, *S), int16."""
    labels = torch.empty((len(x_0), *x_0.shape[2:]), dtype=torch.int16, device=x_0.device)
    # Some rows at a time: probabilities and indices of a whole volume would be many times as large as the labels.
    rows = max(1, _VOXELS_AT_ONCE * x_0.shape[2] // max(labels.numel(), 1))
    for part, out in zip(x_0.split(rows, dim=2), labels.split(rows, dim=1), strict=True):
        out.copy_(codec.probabilities(part).argmax(dim=1))
    return labels
