"""Several segmenters as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.inferers.fusion import FUSIONS, DrawLabels, as_labels, break_ties
from medsegdiff.networks.moments import RunningMoments
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation, StepCallback

SampleMember = Callable[[Any, "StepCallback | None"], Segmentation]
"""(member, callback) -> what this member gives for a batch."""


class EnsembleSegmenter(nn.Module):
    """Several segmenters that answer together, such as a recycling and a supervised one, or those of folds.

    Their probabilities are averaged, each member with the same weight however many draws it takes, or their label
    maps are fused: by "majority", where a class's probability is its share of the votes, or by "staple", see
    `medsegdiff.inferers.fusion`. Where classes tie, the mean probabilities decide. A member's label map is the most
    probable class of its mean over draws; with `fuse_draws` each of its draws gives a label map instead, so that a
    single sampling network can be fused as well.

    Label maps are fused of what `sample` is given, an image or a window. An inferer that samples a whole image in its
    own way, such as by windows, calls `sample_with`.

    Args:
        members: at least two segmenters with the same image channels, classes and spatial axes, or one whose draws
            are fused; 2-D networks among 3-D ones each within a `SlicewiseSegmenter`.
        fusion: "mean", "majority" or "staple".
        fuse_draws: fuse the label maps of draws, not of members; memory grows by a byte a voxel and draw.

    Raises:
        SpecError: a fusion that does not exist or has nothing to fuse, fewer than two members, or members that differ.
    """

    def __init__(self, members: Sequence[Any], *, fusion: str = "mean", fuse_draws: bool = False) -> None:
        super().__init__()
        check_fusion(fusion, fuse_draws=fuse_draws)
        if len(members) < (1 if fuse_draws else 2):
            msg = (
                f"got an ensemble of {len(members)}; allowed are two members or more, or one whose draws are fused by "
                "majority or staple: use a single segmenter itself"
            )
            raise SpecError(msg)
        for what, values in (
            ("spatial axes", [_spatial_axes(member) for member in members]),
            ("image channels", [getattr(member.denoiser, "image_channels", None) for member in members]),
            ("classes", [member.codec.num_classes for member in members]),
        ):
            if len(set(values)) > 1:
                msg = (
                    f"the members of an ensemble have {values} {what}; allowed is one number: take weights of one task"
                )
                raise SpecError(msg)
        self.members = nn.ModuleList(members)
        self.fusion = fusion
        self.fuse_draws = fuse_draws
        self._check_raters()

    @property
    def supervised(self) -> bool:
        """Whether no member samples."""
        return all(member.supervised for member in self.segmenters)

    @property
    def segmenters(self) -> list[DiffusionSegmenter]:
        """The members."""
        return list(self.members)  # type: ignore[arg-type]

    def set_sampling(self, **options: Any) -> None:
        """Change how all members sample; see `DiffusionSegmenter.set_sampling`."""
        for member in self.segmenters:
            member.set_sampling(**options)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Segment images (B, image channels, *S) into class probabilities (B, K, *S), without gradient."""
        return self.sample(image).probabilities

    def sample(self, image: torch.Tensor, *, callback: StepCallback | None = None, **options: Any) -> Segmentation:
        """Segment with every member and pool what they give; see `sample_with`.

        Args:
            image: (B, image channels, *S).
            callback: called after every step of every member.
            **options: further ones of `DiffusionSegmenter.sample`.
        """
        return self.sample_with(
            lambda member, watch: member.sample(image, callback=watch, **options), callback=callback
        )

    @torch.no_grad()
    def sample_with(self, sample: SampleMember, *, callback: StepCallback | None = None) -> Segmentation:
        """Let every member segment in a way of the caller's, and pool what they give.

        The variance is that of one draw of a member chosen at random (law of total variance), whatever the fusion:
        over M members with means m_i and variances over draws v_i, the mean of the v_i plus the mean of (m_i - m)^2,
        m the mean of the m_i. A member of one draw, such as a supervised one, has v_i = 0.

        Args:
            sample: takes a member and the callback to call after each of its steps; returns what it gives for a
                batch. Where draws are fused, the callback must see x_0 of the whole batch.
            callback: called after every step of every member.

        Returns:
            Fused probabilities and variance; as `draws` the sum of the members' draws, as `steps` those of all members
            one after the other.

        Raises:
            SpecError: a single draw to fuse, or draws that `sample` shows only in parts.
        """
        self._check_raters()
        fused = FUSIONS[self.fusion](self.segmenters[0].codec.num_classes) if self.fusion in FUSIONS else None
        means, within = RunningMoments(), torch.zeros(())
        draws, steps = 0, list[int]()
        for member in self.segmenters:
            watch = DrawLabels(callback) if self.fuse_draws and not member.supervised else None
            result = sample(member, callback if watch is None else watch)
            means.add(result.probabilities)  # (B, K, *S)
            within = within.to(result.variance) + result.variance
            draws += result.draws
            steps += result.steps
            if fused is not None:
                fused.add([as_labels(result.probabilities)] if watch is None else _whole(watch.maps(), member, result))
            del result  # the next member samples without it
        variance = within / means.count + means.variance() * ((means.count - 1) / means.count)
        probabilities = means.mean if fused is None else break_ties(fused.probabilities(), means.mean)
        return Segmentation(probabilities, variance, draws, tuple(steps))

    def _check_raters(self) -> None:
        maps = sum(1 if not self.fuse_draws or m.supervised else m.draws for m in self.segmenters)
        if maps < 2:
            msg = f"got {maps} label map to fuse by {self.fusion}; give 2 draws or more, or several weights"
            raise SpecError(msg)


def check_fusion(fusion: str, *, fuse_draws: bool = False) -> None:
    """Make sure that members, or draws, can be fused in this way.

    Raises:
        SpecError: no such fusion, or one that does not fuse draws.
    """
    if fusion not in ("mean", *FUSIONS):
        msg = f"fusion {fusion!r} does not exist; use one of mean, {', '.join(FUSIONS)}"
        raise SpecError(msg)
    if fusion == "mean" and fuse_draws:
        msg = f"fuse_draws is for label maps: draws are averaged anyway; set fusion to {' or '.join(FUSIONS)}"
        raise SpecError(msg)


def _spatial_axes(member: Any) -> int | None:
    """Of the images that a member takes: what goes slice by slice says itself that it takes volumes."""
    return getattr(member, "spatial_dims", None) or getattr(member.denoiser, "spatial_dims", None)


def _whole(maps: list[torch.Tensor], member: Any, result: Segmentation) -> list[torch.Tensor]:
    """The label maps of a member's draws as (B, *S): what goes slice by slice shows (B * D, *S), S without an axis."""
    batch, _, *size = result.probabilities.shape
    axis = getattr(member, "axis", None)
    if axis is not None and maps[0].ndim == len(size) and len(maps[0]) == batch * size[axis]:
        maps = [labels.unflatten(0, (batch, -1)).movedim(1, axis) for labels in maps]
    if any(list(labels.shape) != [batch, *size] for labels in maps):
        msg = (
            f"draws can be fused as whole images only, here {(batch, *size)}, and {tuple(maps[0].shape)} were sampled "
            "to their end; leave out fuse_draws, or average windows at every step"
        )
        raise SpecError(msg)
    return [labels.to(result.probabilities.device) for labels in maps]
