"""Losses of one prediction, sample by sample, so that importance sampling can weigh and learn from them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from medsegdiff.errors import SpecError

PIXEL_TERMS = ("cross_entropy", "focal")
REDUCTIONS = ("mean", "sum")


class SegmentationLoss:
    """Cross-entropy (or focal) plus foreground Dice on class logits, in float32, one value a sample.

    Fu et al. (2023, section 5.3) weigh cross-entropy 20 and Dice 1; their release has the focal loss (gamma 2) in its
    place. The Dice term is the mean over the foreground classes that the sample holds, without smoothing; a class
    that it lacks is left to the pixel term. A sample without any foreground has a Dice term of zero.

    Args:
        pixel_term: "cross_entropy" (paper) or "focal" (release).
        pixel_weight: of the pixel term.
        dice_weight: of the Dice term.
        gamma: of the focal loss.

    Raises:
        SpecError: no such pixel term.
    """

    def __init__(
        self,
        *,
        pixel_term: str = "cross_entropy",
        pixel_weight: float = 20.0,
        dice_weight: float = 1.0,
        gamma: float = 2.0,
    ) -> None:
        if pixel_term not in PIXEL_TERMS:
            msg = f"pixel_term {pixel_term!r} does not exist; use one of {', '.join(PIXEL_TERMS)}"
            raise SpecError(msg)
        self.pixel_term = pixel_term
        self.pixel_weight = pixel_weight
        self.dice_weight = dice_weight
        self.gamma = gamma

    def __call__(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The losses (B,) of logits (B, K, *S), or (B, 1, *S) for two classes, at a label map (B, 1, *S)."""
        logits = logits.float()
        if logits.shape[1] == 1:  # one channel: the background's logit is zero
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        label = label.long()  # (B, 1, *S)
        log_p = logits.log_softmax(dim=1)  # (B, K, *S)
        log_p_true = log_p.gather(1, label).flatten(1)  # (B, N)
        if self.pixel_term == "focal":
            pixel = -((1 - log_p_true.exp()) ** self.gamma * log_p_true).mean(dim=1)  # (B,)
        else:
            pixel = -log_p_true.mean(dim=1)  # (B,)
        return self.pixel_weight * pixel + self.dice_weight * foreground_dice_loss(log_p.exp(), label)


def foreground_dice_loss(probabilities: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 - soft Dice, meant over the foreground classes present in each sample: (B,) from (B, K, *S) and (B, 1, *S)."""
    truth = torch.zeros_like(probabilities).scatter_(1, label, 1.0).flatten(2)[:, 1:]  # (B, K-1, N)
    guess = probabilities.flatten(2)[:, 1:]  # (B, K-1, N)
    size = truth.sum(dim=2)  # (B, K-1)
    dice = 2 * (truth * guess).sum(dim=2) / (size + guess.sum(dim=2)).clamp(min=1e-6)  # (B, K-1)
    present = (size > 0).float()  # (B, K-1)
    return ((1 - dice) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)  # (B,)


class RegressionLoss:
    """Squared error against the prediction's target, one value a sample: for networks that predict noise, v or x_0.

    Args:
        reduction: over the voxels and channels of a sample: "mean" (Amit et al. 2021, equation 19, up to a factor) or
            "sum" (their release), which is larger by the number of voxels and easily leaves the range of fp16.

    Raises:
        SpecError: no such reduction.
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        if reduction not in REDUCTIONS:
            msg = f"reduction {reduction!r} does not exist; use one of {', '.join(REDUCTIONS)}"
            raise SpecError(msg)
        self.reduction = reduction

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The losses (B,) of an output (B, C, *S) at its target (B, C, *S)."""
        squares = F.mse_loss(output.float(), target.float(), reduction="none").flatten(1)  # (B, C N)
        return squares.mean(dim=1) if self.reduction == "mean" else squares.sum(dim=1)  # (B,)
