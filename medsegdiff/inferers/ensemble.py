"""Several segmenters as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation


class EnsembleSegmenter(nn.Module):
    """The mean of several segmenters' probabilities, such as of a recycling and a supervised one.

    Every member has the same weight, however many draws it takes.

    Args:
        members: at least two segmenters with the same image channels, classes and spatial axes; 2-D networks among 3-D
            ones each within a `SlicewiseSegmenter`.

    Raises:
        SpecError: fewer than two members, or members that differ.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        if len(members) < 2:
            msg = f"got an ensemble of {len(members)}; allowed are two members or more: use a single segmenter itself"
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

    @torch.no_grad()
    def sample(self, image: torch.Tensor, **options: Any) -> Segmentation:
        """Segment with every member and pool what they give.

        The variance is that of one draw of a member chosen at random (law of total variance): over M members with
        means m_i and variances over draws v_i, the mean of the v_i plus the mean of (m_i - m)^2, m the mean of the
        m_i. A member of one draw, such as a supervised one, has v_i = 0.

        Args:
            image: (B, image channels, *S).
            **options: of `DiffusionSegmenter.sample`.

        Returns:
            Mean and variance; as `draws` the sum of the members' draws.
        """
        results = [member.sample(image, **options) for member in self.segmenters]
        means = torch.stack([result.probabilities for result in results])  # (M, B, K, *S)
        within = torch.stack([result.variance for result in results]).mean(dim=0)  # (B, K, *S)
        between = means.var(dim=0, correction=0)  # (B, K, *S)
        return Segmentation(means.mean(dim=0), within + between, sum(result.draws for result in results))


def _spatial_axes(member: Any) -> int | None:
    """Of the images that a member takes: what goes slice by slice says itself that it takes volumes."""
    return getattr(member, "spatial_dims", None) or getattr(member.denoiser, "spatial_dims", None)
