"""From a run's specification to its segmenter, and from weights back to it."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from medsegdiff.errors import SpecError, WeightsError
from medsegdiff.files import written_whole
from medsegdiff.methods.registry import get_method
from medsegdiff.methods.run_spec import RunSpec
from medsegdiff.networks.codec import build_codec
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.prediction import Prediction, build_prediction
from medsegdiff.networks.schedulers import SCHEDULES, build_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter

logger = logging.getLogger(__name__)


def build_segmenter(
    spec: RunSpec, *, seed: int = 0, amp: str = "off", init_weights: str | os.PathLike[str] | None = None
) -> DiffusionSegmenter:
    """A segmenter with fresh weights, or with those of another run to start training from.

    Args:
        spec: what to build.
        seed: of the sampling noise.
        amp: see `DiffusionSegmenter`.
        init_weights: a weights file to start from, see `start_from`.

    Raises:
        SpecError: the specification names what does not exist.
        WeightsError: `init_weights` cannot be read, or has nothing for this network.
    """
    method = get_method(spec.method)
    codec = build_codec(method.codec, spec.num_classes)
    own = method.schedule_for(spec.task)
    settings = None if own is None else dict(spec.schedule or own)
    schedule = None if settings is None else build_schedule(**_named(settings))
    denoiser = method.build_denoiser(spec, 0 if schedule is None else codec.channels, schedule)
    segmenter = DiffusionSegmenter(
        _lay_out(denoiser),
        codec=codec,
        prediction=prediction_of(spec),
        schedule=schedule,
        sampler=spec.sampler,
        sampler_options=spec.sampler_options,
        steps=spec.steps,
        draws=spec.draws,
        seed=seed,
        amp=amp,
    )
    if init_weights is not None:
        start_from(segmenter, init_weights)
    return segmenter


def prediction_of(spec: RunSpec) -> Prediction:
    """What the network of a run predicts.

    Raises:
        SpecError: no such method or prediction, or an option that it does not have.
    """
    return build_prediction(**get_method(spec.method).prediction_for(spec.size, spec.prediction_options))


def start_from(segmenter: torch.nn.Module, weights: str | os.PathLike[str]) -> None:
    """Take over what fits of another run's weights: of another method, say, or for other classes.

    Tensors of the same name and shape are copied. Where only the second axis, a convolution's input channels, differs,
    those that both have are copied: the image's, which come first, when a supervised network becomes one that sees a
    mask too. All else stays fresh. How much was taken is logged.

    Raises:
        WeightsError: the file is missing or unreadable, or nothing in it fits.
    """
    state, own = _read_state(Path(weights)), segmenter.state_dict()
    whole = partly = 0
    for name, value in state.items():
        if name not in own:
            continue
        target = own[name]
        if target.shape == value.shape:
            target.copy_(value)
            whole += 1
        elif _differ_in_inputs(target, value):
            shared = min(target.shape[1], value.shape[1])
            target[:, :shared].copy_(value[:, :shared])
            partly += 1
    if not whole + partly:
        msg = f"{weights} has nothing for this network; give weights of the same architecture and size"
        raise WeightsError(msg)
    fresh = len(own) - whole - partly
    logger.info("started from %s: %d tensors taken, %d in part, %d fresh", weights, whole, partly, fresh)


def spec_path(weights: str | os.PathLike[str]) -> Path:
    """Where the specification of a weights file stands: `model.json` beside `model.pt`."""
    return Path(weights).with_suffix(".json")


def save_weights(state_dict: dict[str, torch.Tensor], spec: RunSpec, path: str | os.PathLike[str]) -> None:
    """Write a flat state dict in fp16 as `path` and the specification beside it, each whole or not at all.

    Raises:
        DataError: they cannot be written.
    """
    half = {k: v.detach().cpu().half() if v.is_floating_point() else v.detach().cpu() for k, v in state_dict.items()}
    with written_whole(path, advice="free space, or choose another folder") as partial:
        torch.save(half, partial)
    spec.write(spec_path(path))


def load_segmenter(
    weights: str | os.PathLike[str],
    *,
    seed: int = 0,
    amp: str = "off",
    device: torch.device | str = "cpu",
    **wanted: Any,
) -> DiffusionSegmenter:
    """Build the segmenter that `weights` belong to, load them and set it to evaluation.

    Args:
        weights: a file that `save_weights` wrote, with its specification beside it.
        seed: of the sampling noise.
        amp: see `DiffusionSegmenter`.
        device: to put it on.
        wanted: fields of the specification that must agree, such as `method="recycling"`; None asks for nothing.

    Raises:
        WeightsError: the file is missing, unreadable, of another run than wanted, or does not fit its specification.
    """
    spec = RunSpec.read(spec_path(weights))
    spec.require_match(wanted, where=str(weights))
    segmenter = build_segmenter(spec, seed=seed, amp=amp)
    load_state(segmenter, weights)
    return segmenter.to(device).eval()


def load_state(segmenter: torch.nn.Module, weights: str | os.PathLike[str]) -> None:
    """Load a flat state dict into a network.

    Raises:
        WeightsError: the file is missing or unreadable, or its tensors are not those of the network.
    """
    state = _read_state(Path(weights))
    own = segmenter.state_dict()
    for name in sorted(set(own) | set(state)):
        found = tuple(state[name].shape) if name in state else "nothing"
        expected = tuple(own[name].shape) if name in own else "nothing"
        if found != expected:
            msg = (
                f"{weights} does not fit the network: {name} has {found} in the file and {expected} in the network; "
                "the weights are of another method, size or task than asked for"
            )
            raise WeightsError(msg)
    segmenter.load_state_dict(state)


def _differ_in_inputs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.ndim == b.ndim > 2 and a.shape[0] == b.shape[0] and a.shape[2:] == b.shape[2:]


def _named(schedule: dict[str, Any]) -> dict[str, Any]:
    if "name" not in schedule:
        msg = f"the schedule {schedule} has no name; give one of {', '.join(SCHEDULES)} with its settings"
        raise SpecError(msg)
    return schedule


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.exists():
        msg = f"{path} does not exist; train first, or give the path of a model.pt"
        raise WeightsError(msg)
    # On what is no archive, torch falls back to an older format, whose reader fails with any kind of exception.
    if not zipfile.is_zipfile(path):
        msg = f"{path} cannot be read as weights (not an archive of torch, or cut short); copy or train the file again"
        raise WeightsError(msg)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        msg = f"{path} cannot be read as weights ({type(error).__name__}); copy or train the file again"
        raise WeightsError(msg) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        msg = f"{path} holds something else than the weights of one network; give a model.pt, not a checkpoint"
        raise WeightsError(msg)
    return state


def _lay_out(denoiser: Denoiser) -> Denoiser:
    """Put the weights into the memory layout in which this network computes fastest; values stay as they are."""
    # 3-D convolutions of oneDNN and cuDNN are faster with channels last (a training step of "small" 1.4 times, on two
    # cores); instance norm has no kernel for that layout and would copy back and forth.
    if denoiser.spatial_dims == 3 and not any(isinstance(m, torch.nn.InstanceNorm3d) for m in denoiser.modules()):
        denoiser.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in torch's stubs
    return denoiser
