"""What each sampling step contributes, and whether a network uses its noisy mask at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from medsegdiff.compare.probes import NOISE, TRUTH, probe_case
from medsegdiff.errors import SpecError
from medsegdiff.networks.segmenter import DiffusionSegmenter, SegmenterStep


@dataclass(frozen=True)
class StepStudy:
    """Mean foreground Dice of one case.

    Attributes:
        case: its name.
        per_step: of the predicted x_0 at each visited step, averaged over draws (Fu et al. 2023, Figure 3).
        from_truth: of one prediction at `probe_t` from x_t made of the truth.
        from_noise: of one prediction at `probe_t` from pure noise. A network that uses x_t does better from the truth.
        probe_t: that time step.
    """

    case: str
    per_step: list[float]
    from_truth: float
    from_noise: float
    probe_t: int


@torch.no_grad()
def study_steps(
    segmenter: DiffusionSegmenter, items: Iterable[Mapping[str, Any]], *, probe_t: int | None, device: torch.device
) -> list[StepStudy]:
    """Study a diffusion network on labelled cases, on the grid that the network works on.

    Args:
        segmenter: with a schedule; its own sampler, steps, draws and seed are used.
        items: preprocessed cases, "image" (channels, *S), "label" (1, *S) and "case".
        probe_t: time step at which truth and noise are compared; None for a quarter of T, 250 of the paper's 1001.
        device: where to compute.

    Raises:
        SpecError: a supervised network, or a time step that the schedule does not have.
    """
    schedule = segmenter.schedule
    if schedule is None:
        msg = "a supervised network has no steps to study; give the weights of a diffusion method"
        raise SpecError(msg)
    probe_t = schedule.num_train_timesteps // 4 if probe_t is None else probe_t
    schedule.alpha_cumprod_at(probe_t)
    segmenter = segmenter.to(device).eval()
    return [_study_case(segmenter, item, probe_t, device) for item in items]


def foreground_dice(probabilities: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Hard Dice (B,) of probabilities (B, K, *S) at a label map (1, 1, *S), over the classes in prediction or truth."""
    num_classes = probabilities.shape[1]
    guess = probabilities.argmax(dim=1).flatten(1)  # (B, N)
    truth = label.flatten(1)  # (1, N)
    scores = []
    for k in range(1, num_classes):
        size = (guess == k).sum(dim=1) + (truth == k).sum(dim=1)
        overlap = ((guess == k) & (truth == k)).sum(dim=1)
        scores.append(torch.where(size > 0, 2 * overlap / size, torch.nan))
    return torch.stack(scores, dim=1).nanmean(dim=1)


def _study_case(
    segmenter: DiffusionSegmenter, item: Mapping[str, Any], probe_t: int, device: torch.device
) -> StepStudy:
    case = str(item["case"])
    image = torch.as_tensor(item["image"]).as_subclass(torch.Tensor)[None].float().to(device)  # (1, channels, *S)
    label = torch.as_tensor(item["label"]).as_subclass(torch.Tensor)[None].long().to(device)  # (1, 1, *S)

    scores: dict[int, list[torch.Tensor]] = {}

    def record(step: SegmenterStep) -> None:
        scores.setdefault(step.step.index, []).append(foreground_dice(step.codec.probabilities(step.step.x_0), label))

    segmenter.sample(image, cases=[case], callback=record)
    probed = probe_case(segmenter, item, t=probe_t, seed=segmenter.seed, device=device)

    def dice_from(kind: str) -> float:
        return float(foreground_dice(probed[kind].as_tensor()[None], label.cpu()))

    return StepStudy(
        case=case,
        per_step=[float(torch.cat(scores[index]).mean()) for index in sorted(scores)],
        from_truth=dice_from(TRUTH),
        from_noise=dice_from(NOISE),
        probe_t=probe_t,
    )
