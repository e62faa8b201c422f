"""One segmentation from several label maps: majority vote and STAPLE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medsegdiff.inferers.early_stop import labels_of
from medsegdiff.networks.segmenter import SegmenterStep, StepCallback

_TIE = 1e-3  # share that mean probabilities have where classes tie; far from what any vote of its own weighs
_STAPLE_ITERATIONS = 100  # it takes ten to thirty; raters that have nothing in common can make it take hundreds


class LabelFusion(ABC):
    """Takes label maps, one member of an ensemble after the other, and turns them into class probabilities.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    @abstractmethod
    def add(self, maps: Sequence[torch.Tensor]) -> None:
        """Take the label maps (B, *S) of the next member: one, or one for each of its draws."""

    @abstractmethod
    def probabilities(self) -> torch.Tensor:
        """The class probabilities (B, K, *S), float32, that all maps together give."""


class MajorityVote(LabelFusion):
    """The share of votes that each class has; every member has one, which its draws share.

    Votes are counted as they come: memory is that of the probabilities.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._votes = torch.empty(0)
        self._members = 0

    def add(self, maps: Sequence[torch.Tensor]) -> None:
        if not self._members:
            first = maps[0]
            self._votes = torch.zeros((len(first), self.num_classes, *first.shape[1:]), device=first.device)
        for labels in maps:
            index = labels.long().unsqueeze(1)  # (B, 1, *S)
            self._votes.scatter_add_(1, index, torch.full(index.shape, 1 / len(maps), device=index.device))
        self._members += 1

    def probabilities(self) -> torch.Tensor:
        return self._votes / self._members


class Staple(LabelFusion):
    """STAPLE (Warfield et al. 2004): each map weighs as much as its estimated sensitivity and specificity are worth.

    Runs SimpleITK's binary STAPLE for each class against all others, and normalises the foreground's probabilities
    over the classes. With two classes that is the binary STAPLE itself. Every map is a rater of its own, whichever
    member it is of; all maps are kept, a byte a voxel. Raters that all agree are right. A class that no map has, has
    probability zero; where STAPLE has no answer, as when raters that are never wrong contradict each other, the share
    of votes stands in.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self._maps: list[torch.Tensor] = []

    def add(self, maps: Sequence[torch.Tensor]) -> None:
        self._maps += maps

    def probabilities(self) -> torch.Tensor:
        items = [torch.stack(raters) for raters in zip(*self._maps, strict=True)]  # B of (R, *S)
        return torch.stack([self._fuse(raters) for raters in items])

    def _fuse(self, raters: torch.Tensor) -> torch.Tensor:
        """(R, *S) to (K, *S)."""
        votes = MajorityVote(self.num_classes)
        for labels in raters:
            votes.add([labels[None]])
        shares = votes.probabilities()[0]  # (K, *S)
        if (raters == raters[:1]).all():
            return shares
        images = [_as_image(labels) for labels in raters]
        fused = shares.clone()
        for k in raters.unique().tolist():
            foreground = _staple(images, k).to(shares)
            fused[k] = torch.where(foreground.isfinite(), foreground, shares[k])
        total = fused.sum(dim=0, keepdim=True)
        return torch.where(total > 0, fused / total, shares)


FUSIONS: dict[str, type[LabelFusion]] = {"majority": MajorityVote, "staple": Staple}
"""Ways to fuse label maps by name; probabilities are fused by their mean."""


class DrawLabels:
    """A callback of sampling that keeps the label map of every draw, a byte a voxel.

    Args:
        callback: sees each step too, and may stop the sampling.
    """

    def __init__(self, callback: StepCallback | None = None) -> None:
        self.callback = callback
        self._groups: list[tuple[Sequence[int], torch.Tensor]] = []

    def __call__(self, step: SegmenterStep) -> bool | None:
        labels = labels_of(step.step.x_0, step.codec).to(_dtype(step.codec.num_classes))  # (B * n, *S)
        # Any step may be the last: the sampling can be stopped.
        if step.step.index > 0:
            self._groups.pop()
        self._groups.append((step.draws, labels.unflatten(0, (-1, len(step.draws)))))  # (B, n, *S)
        return None if self.callback is None else self.callback(step)

    def maps(self) -> list[torch.Tensor]:
        """The label map of each draw (B, *S); where images came in several batches, B counts all of them."""
        parts: dict[int, list[torch.Tensor]] = {}
        for draws, labels in self._groups:
            for place, draw in enumerate(draws):
                parts.setdefault(draw, []).append(labels[:, place])
        return [torch.cat(parts[draw]) for draw in sorted(parts)]


def as_labels(probabilities: torch.Tensor) -> torch.Tensor:
    """The most probable class (B, *S) of probabilities (B, K, *S), uint8, or int16 for more than 256 classes."""
    return probabilities.argmax(dim=1).to(_dtype(probabilities.shape[1]))


def break_ties(fused: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Let mean probabilities decide where several classes are equally and most probable.

    There, a thousandth of the probability is dealt out to these classes as the mean has them; all else stays.

    Args:
        fused: class probabilities (B, K, *S) from label maps; changed in place.
        mean: the members' mean class probabilities (B, K, *S).
    """
    first = fused >= fused.amax(dim=1, keepdim=True) - 1e-6  # (B, K, *S); sums of shares are equal but for rounding
    tied = first.sum(dim=1) > 1  # (B, *S)
    shares, means, first = (tensor.movedim(1, -1) for tensor in (fused, mean, first))  # views (B, *S, K)
    hint = (means[tied] * first[tied]).clamp_(min=torch.finfo(mean.dtype).tiny)  # (voxels, K)
    shares[tied] = shares[tied].lerp(hint / hint.sum(dim=1, keepdim=True), _TIE)
    return fused


def _dtype(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 256 else torch.int16


def _as_image(labels: torch.Tensor) -> Any:
    import SimpleITK as sitk

    return sitk.GetImageFromArray(labels.cpu().numpy())


def _staple(images: Sequence[Any], k: int) -> torch.Tensor:
    """The probability (*S) that a voxel is of class k, float64; NaN where there is no answer."""
    import SimpleITK as sitk

    fusion = sitk.STAPLEImageFilter()
    fusion.SetForegroundValue(k)
    fusion.SetMaximumIterations(_STAPLE_ITERATIONS)
    return torch.from_numpy(np.ascontiguousarray(sitk.GetArrayFromImage(fusion.Execute(list(images)))))
