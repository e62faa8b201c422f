"""What the denoiser's output means, and how x_0 follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from medsegdiff.errors import SpecError, check_options
from medsegdiff.networks.schedulers.schedule import NoiseSchedule


class Prediction(ABC):
    """One reading of the denoiser's output.

    Attributes:
        classifies: whether the output is logits of classes, so that cross-entropy and Dice apply to it.
        needs_schedule: whether x_0 follows from the output only together with x_t and the schedule.
    """

    classifies = False
    needs_schedule = False

    @abstractmethod
    def to_x_0(
        self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        """The predicted x_0 (B, C, *S), float32, from the output (B, C, *S) at x_t (B, C, *S) and t (B,)."""

    def target(
        self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        """What a squared loss compares `regressed` outputs with, (B, C, *S).

        Raises:
            SpecError: the output is logits, which are compared with the label.
        """
        msg = f"{type(self).__name__} has no target for a squared loss; compare its logits with the label map"
        raise SpecError(msg)

    def regressed(self, output: torch.Tensor) -> torch.Tensor:
        """What a squared loss compares with `target`: the output (B, C, *S), through tanh where x_0 is."""
        return output

    def clipped(self, clip_x_0: bool) -> Prediction:
        """The same reading, whose x_0 is clipped to [-1, 1] or is not.

        Raises:
            SpecError: x_0 lies in this range by itself.
        """
        msg = (
            f"clip_x_0 is {clip_x_0}, but what this network predicts lies between -1 and 1 by itself; "
            "leave clip_x_0 out, it is for networks that predict the noise or v"
        )
        raise SpecError(msg)


class LogitsPrediction(Prediction):
    """Logits of x_0: `2 softmax - 1` over classes, or `2 sigmoid - 1` for a single channel (Fu et al. 2023)."""

    classifies = True

    def to_x_0(
        self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        logits = output.float()
        return 2 * (logits.softmax(dim=1) if logits.shape[1] > 1 else logits.sigmoid()) - 1


class TanhPrediction(Prediction):
    """x_0 itself through a hyperbolic tangent (Hejrati et al. 2024)."""

    def to_x_0(
        self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        return output.float().tanh()

    def target(
        self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        return x_0

    def regressed(self, output: torch.Tensor) -> torch.Tensor:
        return output.float().tanh()


class _MixedPrediction(Prediction):
    """What mixes x_0 and noise, so that x_0 may come out of its range.

    Args:
        clip_x_0: clip the x_0 that follows from it to [-1, 1]; SegDiff does not.
    """

    needs_schedule = True

    def __init__(self, *, clip_x_0: bool = False) -> None:
        self.clip_x_0 = clip_x_0

    def clipped(self, clip_x_0: bool) -> Prediction:
        return type(self)(clip_x_0=clip_x_0)


class EpsilonPrediction(_MixedPrediction):
    """The noise in x_t (Ho et al. 2020; Amit et al. 2021)."""

    def to_x_0(
        self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        signal, spread = _given(schedule).scales(t, x_t)
        x_0 = (x_t.float() - spread * output.float()) / signal
        return x_0.clamp(-1, 1) if self.clip_x_0 else x_0

    def target(
        self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        return noise


class VPrediction(_MixedPrediction):
    """v = sqrt(abar) noise - sqrt(1 - abar) x_0 (Salimans & Ho 2022, section 4)."""

    def to_x_0(
        self, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        signal, spread = _given(schedule).scales(t, x_t)
        x_0 = signal * x_t.float() - spread * output.float()
        return x_0.clamp(-1, 1) if self.clip_x_0 else x_0

    def target(
        self, x_0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, schedule: NoiseSchedule | None
    ) -> torch.Tensor:
        signal, spread = _given(schedule).scales(t, x_0)
        return signal * noise - spread * x_0


PREDICTIONS: dict[str, type[Prediction]] = {
    "logits": LogitsPrediction,
    "tanh": TanhPrediction,
    "epsilon": EpsilonPrediction,
    "v": VPrediction,
}


def build_prediction(name: str, **options: bool) -> Prediction:
    """The prediction kind "logits", "tanh", "epsilon" or "v".

    Args:
        name: one of `PREDICTIONS`.
        options: of the kind: `clip_x_0` for "epsilon" and "v"; the others are bounded by themselves.

    Raises:
        SpecError: no such kind, or an option that it does not have.
    """
    if name not in PREDICTIONS:
        msg = f"prediction {name!r} does not exist; use one of {', '.join(PREDICTIONS)}"
        raise SpecError(msg)
    kind = PREDICTIONS[name]
    check_options(kind, options, f"prediction {name!r}")
    return kind(**options)


def _given(schedule: NoiseSchedule | None) -> NoiseSchedule:
    if schedule is None:
        msg = "this kind of prediction needs a schedule, got none; use logits or tanh for a supervised network"
        raise SpecError(msg)
    return schedule
