"""Settings of training that papers differ in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; by default as this package's own weights were, in runs of a few thousand steps.

    Attributes:
        weight_decay: of AdamW.
        end_fraction: of the peak of the learning rate that is left at the end.
        ema_decay: of the averaged weights that are validated and kept; 0 takes the weights as they are.
        pixel_weight: of the cross-entropy where Dice weighs 1.
    """

    weight_decay: float = 0.01
    end_fraction: float = 0.01
    ema_decay: float = 0.999
    pixel_weight: float = 1.0
