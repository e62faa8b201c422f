"""Losses of a discriminator and its generator, sample by sample, in float32."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The logistic loss softplus(-D(real)) + softplus(D(fake)), (B,) from logits (B,) each.

    It is the cross-entropy of "real" and "fake" (Goodfellow et al. 2014), 2 log 2 for a discriminator that cannot
    tell.
    """
    return F.softplus(-real_logits.float()) + F.softplus(fake_logits.float())


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """The non-saturating logistic loss softplus(-D(fake)), (B,) from logits (B,)."""
    return F.softplus(-fake_logits.float())


def r1_penalty(real_logits: torch.Tensor, real: torch.Tensor, *, gamma: float = 1.0) -> torch.Tensor:
    """gamma / 2 times the squared norm of the gradient of D at real samples (Mescheder et al. 2018, equation 9).

    Args:
        real_logits: D(real), (B,), computed from `real` with gradient.
        real: the samples (B, …), requiring gradient.
        gamma: weight.

    Returns:
        (B,), with gradient to the discriminator's weights.
    """
    (gradient,) = torch.autograd.grad(real_logits.float().sum(), real, create_graph=True)  # (B, …)
    return gamma / 2 * gradient.float().flatten(1).square().sum(dim=1)
