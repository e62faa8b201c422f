"""The learning rate over the steps of training."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer,
    *,
    total_steps: int,
    warmup_steps: int = 100,
    start_fraction: float = 1 / 80,
    end_fraction: float = 1 / 16,
) -> LambdaLR:
    """Linear warm-up, then half a cosine; to be stepped after every optimiser step.

    The defaults are the fractions of the recycling paper's release: 1e-5 to 8e-4 in 100 steps, then down to 5e-5. Runs
    shorter than ten warm-ups warm up over a tenth of their steps.

    Args:
        optimizer: its learning rate is the peak.
        total_steps: optimiser steps until the end value is reached, which then stays.
        warmup_steps: steps of the warm-up.
        start_fraction: of the peak at step 0.
        end_fraction: of the peak at the end.
    """
    warmup = max(1, min(warmup_steps, total_steps // 10))

    def fraction(step: int) -> float:
        if step < warmup:
            return start_fraction + (1 - start_fraction) * step / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return end_fraction + (1 - end_fraction) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, fraction)
