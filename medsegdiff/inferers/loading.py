"""From weights files to a network that is ready to segment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medsegdiff.errors import SpecError, WeightsError
from medsegdiff.inferers.ensemble import EnsembleSegmenter, check_fusion
from medsegdiff.inferers.slicewise import Segmenter, for_images_of
from medsegdiff.methods import SIZES, RunSpec, get_method, load_segmenter, spec_path
from medsegdiff.networks.blocks.autocast import amp_dtype

Weights = str | os.PathLike[str]


def load_network(
    weights: Weights | Sequence[Weights],
    *,
    sampler: str | None = None,
    sampler_options: dict[str, Any] | None = None,
    clip_x_0: bool | None = None,
    steps: int | None = None,
    draws: int | None = None,
    fusion: str | None = None,
    fuse_draws: bool | None = None,
    seed: int = 0,
    amp: str = "off",
    device: str | torch.device = "cpu",
    spatial_dims: int | None = None,
    slices_per_batch: int = 32,
    **wanted: Any,
) -> Segmenter:
    """Load a segmenter, or an ensemble from several weights files, for inference.

    Args:
        weights: a file that `save_weights` wrote, or several, such as those of different methods or of folds.
        sampler: in place of the one that the weights were validated with.
        sampler_options: of the sampler, such as `{"eta": 0.5}`, in place of those; another sampler starts from none.
        clip_x_0: see `DiffusionSegmenter.set_sampling`; None for what the weights were trained with.
        steps: in place of those they were validated with.
        draws: how many segmentations to average.
        fusion: how the ensemble answers, see `EnsembleSegmenter`: "mean" (also None), "majority" or "staple". The last
            two fuse the draws of a single network.
        fuse_draws: whether they fuse draws or members; None for members where there are several.
        seed: of the sampling noise.
        amp: "auto", "bf16", "fp16" or "off".
        device: "auto", "cpu", "cuda" or what else torch knows.
        spatial_dims: spatial axes of the images to segment; a 2-D network goes through volumes slice by slice. None
            for those of the network.
        slices_per_batch: slices that such a network takes at once, see `SlicewiseSegmenter`.
        **wanted: fields of the specification that must agree, such as `method`; None asks for nothing.

    Raises:
        SpecError: a setting that does not exist, a 3-D network for 2-D images, members of an ensemble that do not fit
            each other, or nothing to fuse.
        WeightsError: weights that are missing, unreadable, or of another run than wanted.
    """
    if wanted.get("method") is not None:
        get_method(wanted["method"])
    if wanted.get("size") not in (None, *SIZES):
        msg = f"size {wanted['size']!r} does not exist; use one of {', '.join(SIZES)}"
        raise SpecError(msg)
    fusion = fusion or "mean"
    check_fusion(fusion, fuse_draws=bool(fuse_draws))
    device = resolve_device(device)
    amp_dtype(device, amp)
    files = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
    for file in files:
        if not Path(file).is_file():
            msg = f"{file} is no file; give the path of a model.pt, or train one"
            raise WeightsError(msg)
    if len(files) > 1:
        # Where that of the images is known, members are brought to it.
        _check_members(files, ("task", "class_names", "in_channels", *(() if spatial_dims else ("spatial_dims",))))
    members: list[Any] = []
    for file in files:
        member: Segmenter = load_segmenter(file, seed=seed, amp=amp, device=device, **wanted)
        member.set_sampling(
            sampler=sampler, sampler_options=sampler_options, clip_x_0=clip_x_0, steps=steps, draws=draws
        )
        if spatial_dims is not None:
            member = for_images_of(member, spatial_dims, slices_per_batch=slices_per_batch)
        members.append(member.eval())
    if len(members) == 1 and fusion == "mean":
        return members[0]
    fuse_draws = len(members) == 1 if fuse_draws is None else fuse_draws
    return EnsembleSegmenter(members, fusion=fusion, fuse_draws=fuse_draws).eval()


def find_weights(
    bundle_root: Weights, *, method: str | None = None, size: str | None = None, ensemble: bool = False
) -> str | list[str]:
    """The weights that a bundle ships, in its folder `models`.

    Args:
        bundle_root: folder of the bundle.
        method: take weights of this method, where there are any.
        size: take weights of this size, where there are any.
        ensemble: take all of them.

    Returns:
        The path of `model.pt`, or of the first other file that fits where `model.pt` does not; a list of all paths,
        `model.pt` first, for an ensemble. That the file exists and fits is for `load_network` to check.

    Raises:
        WeightsError: an ensemble of a bundle that has fewer than two weights files.
    """
    folder = Path(bundle_root) / "models"
    default = folder / "model.pt"
    others = sorted(path for path in folder.glob("*.pt") if path != default and spec_path(path).is_file())
    files = [default, *others]
    if ensemble:
        if not others or not default.is_file():
            msg = f"{folder} holds {len(others) + default.is_file()} weights files; an ensemble needs two or more"
            raise WeightsError(msg)
        return [str(path) for path in files]
    if method is not None or size is not None:
        for path in files:
            spec = RunSpec.read(spec_path(path)) if path.is_file() else None
            if spec is not None and method in (None, spec.method) and size in (None, spec.size):
                return str(path)
    return str(default)


def trained_size(weights: Weights | Sequence[Weights], default: Sequence[int]) -> list[int]:
    """The size of image, or of window, that weights were trained on.

    Args:
        weights: a file that `save_weights` wrote, or several, of which the first counts.
        default: the size where there is no such file yet.

    Returns:
        As many numbers as `default` has; where weights of a 2-D network are for volumes, its size and then `default`'s.
    """
    first = Path(weights if isinstance(weights, (str, os.PathLike)) else weights[0])
    size = RunSpec.read(spec_path(first)).roi_size if spec_path(first).is_file() else ()
    return [*size[: len(default)], *default[len(size) :]]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of a name; "auto" is the first GPU where there is one, else the CPU.

    Raises:
        SpecError: no such device on this machine.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
        msg = f"device {str(device)!r} cannot be used on this machine; use auto, cpu, or cuda where there is a GPU"
        raise SpecError(msg) from error
    return found


def _check_members(files: Sequence[Weights], names: Sequence[str]) -> None:
    first, *rest = [RunSpec.read(spec_path(file)) for file in files]
    for file, spec in zip(files[1:], rest, strict=True):
        for name in names:
            if getattr(spec, name) != getattr(first, name):
                msg = (
                    f"{file} has {name}={getattr(spec, name)!r} and {files[0]} has {getattr(first, name)!r}; "
                    "members of an ensemble must agree: take weights of one task"
                )
                raise SpecError(msg)
