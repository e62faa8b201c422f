"""How much memory training takes, found out without a step of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medsegdiff.networks.blocks.autocast import autocast
from medsegdiff.networks.live_bytes import MARGIN, LiveBytes, weightless, without_content
from medsegdiff.networks.segmenter import DiffusionSegmenter

COPIES = 4
"""Of each trained number: itself, its gradient, and Adam's two moments."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on the device of training, at most, beside the data and what the program itself takes.

    Attributes:
        weights: of all networks in training, with gradients, the optimisers' moments and the averaged copy.
        step: of a step forward and back; 0 where the network cannot be followed.
    """

    weights: int
    step: int


def training_memory(
    segmenter: DiffusionSegmenter,
    image_shape: Sequence[int],
    device: torch.device,
    *,
    discriminator: nn.Module | None = None,
    averaged: bool = False,
) -> TrainingMemory:
    """What training takes with Adam, by following one step of tensors that have no content.

    Args:
        segmenter: in training, on `device`.
        image_shape: (B, channels, *S) of a batch on one process.
        device: the network's.
        discriminator: trained beside it, see `CDALDiscriminator`.
        averaged: whether an averaged copy of the segmenter is kept.
    """
    weights = (COPIES + averaged) * _bytes_of(segmenter)
    if discriminator is not None:
        weights += COPIES * _bytes_of(discriminator)
    try:
        step = _follow_segmenter(segmenter, image_shape, device)
        if discriminator is not None:  # its step is over before the segmenter's begins
            step = max(step, _follow_discriminator(discriminator, segmenter, image_shape, device))
    except (RuntimeError, TypeError):  # what depends on content, or cannot be copied
        step = 0
    return TrainingMemory(weights, math.ceil(MARGIN * step))


def _follow_segmenter(segmenter: DiffusionSegmenter, image_shape: Sequence[int], device: torch.device) -> int:
    with without_content() as fake:
        denoiser = weightless(segmenter.denoiser, fake)
        with LiveBytes() as live:
            image, x_t, t = _made_inputs(segmenter, image_shape, device)
            features = denoiser.latent_dim
            z = torch.empty(len(image), features, device=device) if features and not segmenter.supervised else None
            with autocast(device, segmenter.amp):
                output = denoiser(x_t, t, denoiser.encode(image), None, z)  # (B, C, *S)
            output.float().square().mean().backward()
            return live.peak


def _follow_discriminator(
    discriminator: nn.Module, segmenter: DiffusionSegmenter, image_shape: Sequence[int], device: torch.device
) -> int:
    """With the gradient penalty, whose graph is the largest, in full precision."""
    with without_content() as fake:
        judge: Any = weightless(discriminator, fake)
        with LiveBytes() as live:
            _, x_t, t = _made_inputs(segmenter, image_shape, device)
            real = torch.empty_like(x_t, requires_grad=True)  # (B, C, *S)
            logits = judge(real, x_t, t)  # (B,)
            (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)  # (B, C, *S)
            with autocast(device, segmenter.amp):
                fakes = judge(torch.empty_like(x_t), x_t, t)  # (B,)
            (logits.mean() + fakes.float().mean() + slope.square().mean()).backward()
            return live.peak


def _made_inputs(
    segmenter: DiffusionSegmenter, image_shape: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An image (B, channels, *S), x_t (B, C, *S) and t (B,)."""
    batch, _, *size = image_shape
    image = torch.empty(*image_shape, device=device)
    x_t = torch.empty(batch, segmenter.mask_channels, *size, device=device)
    return image, x_t, torch.zeros(batch, dtype=torch.long, device=device)


def _bytes_of(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
