"""The spatial attention of cDAL: which places of a mask its discriminator looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from medsegdiff.engines.noisy_pairs import NoisyPair, check_kind
from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.padding import crop_to
from medsegdiff.networks.nets.cdal_discriminator import CDALDiscriminator

NORMALISATIONS = ("none", "min_max", "unit_mean")


@torch.no_grad()
def attention_map(
    discriminator: CDALDiscriminator, pair: NoisyPair, *, layer: str | int, normalise: str = "none"
) -> torch.Tensor:
    """A_D, the mean over channels of one layer's features, on the grid of the mask (Hejrati et al. 2024, section 2.2).

    Linear interpolation carries it there. The paper does not say how it is scaled: "none" leaves it as it is, signed
    and unbounded, as the release does. In a fresh discriminator it is tiny, so that the attended mask x_0 * A_D is
    almost zero and the generator starts out on pure noise.

    Args:
        discriminator: without DDP around it.
        pair: the masks that the discriminator is shown.
        layer: which features, see `layer_factor`.
        normalise: "none"; "min_max" to [0, 1] for each sample; "unit_mean" to a mean absolute value of one for each
            sample, the signs kept. A map without any range or size becomes all ones.

    Returns:
        (B, 1, *S), float32, without gradient.

    Raises:
        SpecError: no such layer or normalisation.
    """
    check_kind("normalise", normalise, NORMALISATIONS)
    size = pair.x_t.shape[2:]
    factor = layer_factor(layer, discriminator.factors, size)
    features = discriminator.features(pair.x_prev, pair.x_t, pair.t, down_to=factor)[factor]  # (B, C, *S/f)
    coarse = features.float().mean(dim=1, keepdim=True)  # (B, 1, *S/f)
    mode = "bilinear" if coarse.ndim == 4 else "trilinear"
    whole = [n * factor for n in coarse.shape[2:]]  # sizes that the factor does not divide had been rounded up
    attention = crop_to(F.interpolate(coarse, size=whole, mode=mode, align_corners=False), size)  # (B, 1, *S)
    return _normalised(attention, normalise)


def layer_factor(layer: str | int, factors: Sequence[int], size: Sequence[int]) -> int:
    """By how many times a discriminator's layer is smaller than its input.

    Args:
        layer: "1/8" for the layer of an eighth of the size; or the length of the layer's longest axis, as the paper
            has it: 32 is the layer of 32 x 32, at inputs of 256 x 256 the same.
        factors: those that the discriminator has.
        size: of the input, *S.

    Raises:
        SpecError: no such layer; the message lists those there are.
    """
    lengths = {factor: [-(-n // factor) for n in size] for factor in factors}
    for factor, length in lengths.items():
        if layer == f"1/{factor}" or (isinstance(layer, int) and layer == max(length)):
            return factor
    there = ", ".join(f"1/{factor} ({' x '.join(map(str, length))})" for factor, length in lengths.items())
    msg = f"the discriminator has no layer {layer!r}; use one of {there}, or the longest axis of one as a number"
    raise SpecError(msg)


def _normalised(attention: torch.Tensor, normalise: str) -> torch.Tensor:
    if normalise == "none":
        return attention
    axes = tuple(range(1, attention.ndim))
    if normalise == "min_max":
        low, high = attention.amin(dim=axes, keepdim=True), attention.amax(dim=axes, keepdim=True)
        shifted, scale = attention - low, high - low
    else:
        shifted, scale = attention, attention.abs().mean(dim=axes, keepdim=True)
    flat = scale == 0
    return (shifted / scale.masked_fill(flat, 1)).masked_fill(flat, 1)
