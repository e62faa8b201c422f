"""Whether a network uses its noisy mask: one prediction from the truth's x_t, one from pure noise, and x_t itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from torch.nn.functional import one_hot

from medsegdiff.data.noise import keyed_generator
from medsegdiff.errors import SpecError
from medsegdiff.inferers.slicewise import SlicewiseSegmenter
from medsegdiff.networks.codec import MaskCodec
from medsegdiff.networks.segmenter import DiffusionSegmenter, evaluating

TRUTH, NOISE, MASK = "truth", "noise", "x_t"
"""What a segmentation comes from: the network that sees the x_t of the truth, or pure noise, or no network but x_t."""


@torch.no_grad()
def probe_case(
    network: DiffusionSegmenter | SlicewiseSegmenter,
    item: Mapping[str, Any],
    *,
    t: int,
    seed: int,
    device: torch.device,
) -> dict[str, MetaTensor]:
    """One prediction at `t` from the x_t of the truth and one from pure noise, of the whole image at once.

    Beside them stands what x_t itself says, the class of its largest value at each voxel: how much of the truth is left
    in it (Fu et al. 2023, Figure 7d). All see the same noise, which is keyed by (seed, case), for slices of a volume by
    (seed, case/slice).

    Args:
        network: with a schedule; a 2-D one for volumes within a `SlicewiseSegmenter`.
        item: a case on the network's grid: "image" (channels, *S), "label" (1, *S) and "case".
        t: time step of the schedule.
        seed: of the noise.
        device: where to compute.

    Returns:
        Class probabilities (K, *S) by "truth", "noise" and "x_t"; the last are 0 and 1.

    Raises:
        SpecError: a network without a schedule, or a time step that it does not have.
    """
    slicewise = network if isinstance(network, SlicewiseSegmenter) else None
    segmenter: Any = network if slicewise is None else slicewise.segmenter
    if getattr(segmenter, "schedule", None) is None:
        msg = "a supervised network or an ensemble has no x_t to look at; give a single network with a schedule"
        raise SpecError(msg)
    image, label = (torch.as_tensor(item[key]).as_subclass(torch.Tensor)[None] for key in ("image", "label"))
    names = [str(item["case"])]
    if slicewise is not None:
        names = slicewise.slice_names(names, range(image.shape[slicewise.axis]))
        image, label = slicewise.as_slices(image), slicewise.as_slices(label)
    at_once = 1 if slicewise is None else slicewise.slices_per_batch
    found: dict[str, list[torch.Tensor]] = {TRUTH: [], NOISE: [], MASK: []}
    with evaluating(segmenter):
        for first in range(0, len(names), at_once):
            part = slice(first, first + at_once)
            for kind, probabilities in _probe(
                segmenter, image[part].float().to(device), label[part].long().to(device), names[part], t, seed
            ).items():
                found[kind].append(probabilities.cpu())
    whole = {kind: torch.cat(parts) for kind, parts in found.items()}  # (1 or D, K, *S)
    if slicewise is not None:
        return {kind: MetaTensor(slices.movedim(0, slicewise.axis)) for kind, slices in whole.items()}
    return {kind: MetaTensor(probabilities[0]) for kind, probabilities in whole.items()}


def _probe(
    segmenter: DiffusionSegmenter, image: torch.Tensor, label: torch.Tensor, names: list[str], t: int, seed: int
) -> dict[str, torch.Tensor]:
    """The probabilities (B, K, *S) of a batch."""
    condition = segmenter.encode(image)
    x_0 = segmenter.codec.encode(label)  # (B, C, *S)
    noise = torch.stack([torch.randn(x_0.shape[1:], generator=keyed_generator(seed, name, "probe")) for name in names])
    noise = noise.to(image.device)
    features = getattr(segmenter.denoiser, "latent_dim", 0)
    z = None
    if features:
        z = torch.stack([torch.randn(features, generator=keyed_generator(seed, name, "probe", "z")) for name in names])
        z = z.to(image.device)
    x_t = segmenter.schedule.add_noise(x_0, noise, t)  # type: ignore[union-attr]  # probe_case has looked
    return {
        TRUTH: segmenter.codec.probabilities(segmenter.denoise(x_t, t, condition, None, z)),
        NOISE: segmenter.codec.probabilities(segmenter.denoise(noise, t, condition, None, z)),
        MASK: _as_it_is(x_t, segmenter.codec),
    }


def _as_it_is(x_t: torch.Tensor, codec: MaskCodec) -> torch.Tensor:
    """The classes that a noisy mask (B, C, *S) says, one-hot (B, K, *S)."""
    # A codec clips what lies beyond -1 and 1, as noise does, and values that are clipped alike cannot be told apart.
    within = x_t / x_t.abs().amax()  # (B, C, *S)
    classes = codec.probabilities(within).argmax(dim=1)  # (B, *S)
    return one_hot(classes, codec.num_classes).movedim(-1, 1).float()  # (B, K, *S)
