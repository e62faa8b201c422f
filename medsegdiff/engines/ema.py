"""An exponential moving average of the weights that warms up."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from medsegdiff.errors import SpecError


class DecayingAverage(AveragedModel):
    """An averaged copy that knows its decay."""

    decay: float


def make_ema(network: nn.Module, *, decay: float = 0.999) -> DecayingAverage:
    """A copy of `network` that follows it with decay min(decay, (1 + n) / (10 + n)) at its n-th update.

    The warm-up makes the average useful in runs of a few hundred steps: it spans about the last ninth of the steps
    taken until the full decay is reached. The averaged network is the result's `module`, the decay its
    `decay`.

    Args:
        network: what to follow; under DDP, the network inside.
        decay: in [0, 1).
    """
    if not 0 <= decay < 1:
        msg = f"decay must lie in [0, 1), got {decay}"
        raise SpecError(msg)

    def update(
        averages: list[torch.Tensor] | tuple[torch.Tensor, ...],
        currents: list[torch.Tensor] | tuple[torch.Tensor, ...],
        count: torch.Tensor | int,
    ) -> None:
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current.to(average), weight)
            else:
                average.copy_(current)

    ema = DecayingAverage(network, multi_avg_fn=update, use_buffers=True)
    ema.decay = decay
    return ema.requires_grad_(False).eval()
