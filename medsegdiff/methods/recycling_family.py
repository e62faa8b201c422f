"""The methods that Fu et al. (2023) compare: one network, six ways to train it."""

from __future__ import annotations

from typing import Any

from medsegdiff.errors import SpecError
from medsegdiff.methods.registry import DenoiserBuilder, Method, register
from medsegdiff.methods.run_spec import RunSpec
from medsegdiff.methods.training_settings import TrainingSettings
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.nets.recycling_unet import RecyclingUNet
from medsegdiff.networks.schedulers import NoiseSchedule

# "small" has two convolutions before and one block behind at full resolution, where a convolution costs most, and
# group norm, which trains faster than instance norm in few steps; about 5.7 M parameters in 3-D. With a single
# convolution at the entrance the noise of x_t reached the decoder nearly unfiltered through the first skip connection;
# starting blind to x_t halves the steps that recycling needs.
SIZE_OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {"channels": (32, 64, 128, 256), "num_res_blocks": 2, "norm": "instance", "mask_input": "raw"},
    "small": {
        "channels": (32, 64, 96, 96),
        "num_res_blocks": (0, 1, 1, 1),
        "norm": "group",
        "stem_convs": 2,
        "mask_gain": 0.0,
        "mask_input": "raw",
    },
}
MASK_INPUTS = ("raw", "clipped", "scaled")


def build_recycling_unet(
    spec: RunSpec, mask_channels: int, schedule: NoiseSchedule | None, *, self_conditioning: bool = False
) -> Denoiser:
    """The recycling U-Net of a run; `spec.options` override what its size sets.

    Beside the arguments of `RecyclingUNet`, the option `mask_input` says how x_t comes in: "raw" (the paper),
    "clipped" to [-1, 1] and moved to [0, 1] (its release), or "scaled" by sqrt(abar_t), the best linear guess of x_0.

    Raises:
        SpecError: an option that the network does not have.
    """
    options = {**SIZE_OPTIONS[spec.size], **spec.options}
    mask_input = options.pop("mask_input")
    if mask_input not in MASK_INPUTS:
        msg = f"mask_input {mask_input!r} does not exist; use one of {', '.join(MASK_INPUTS)}"
        raise SpecError(msg)
    if schedule is not None:
        options["num_train_timesteps"] = schedule.num_train_timesteps
        options["clip_mask"] = mask_input == "clipped"
        options["mask_scales"] = schedule.alphas_cumprod.sqrt().tolist() if mask_input == "scaled" else None
    try:
        factor = 2 ** (len(options["channels"]) - 1)
        # The network pads to two tokens an axis at least.
        options.setdefault("token_grid", [max(2, -(-n // factor)) for n in spec.roi_size])
        return RecyclingUNet(
            spec.spatial_dims,
            spec.in_channels,
            mask_channels,
            spec.num_classes,
            self_conditioning=self_conditioning,
            **options,
        )
    except TypeError as error:
        msg = f"options {spec.options} do not fit the recycling U-Net ({error}); see medsegdiff.networks.nets for them"
        raise SpecError(msg) from error


def _build_self_conditioned(spec: RunSpec, mask_channels: int, schedule: NoiseSchedule | None) -> Denoiser:
    return build_recycling_unet(spec, mask_channels, schedule, self_conditioning=True)


LINEAR_1001: dict[str, Any] = {"name": "linear", "num_train_timesteps": 1001}

# The weights of the loss are those of section 5.3; the rest is what the release is set to: AdamW with a decay of 1e-8,
# a rate from 8e-4 down to 5e-5, and no average of the weights.
SIZE_TRAINING = {
    "paper": TrainingSettings(weight_decay=1e-8, end_fraction=1 / 16, ema_decay=0.0, pixel_weight=20.0),
}


def _register(
    name: str,
    summary: str,
    build_denoiser: DenoiserBuilder = build_recycling_unet,
    schedule: dict[str, Any] | None = LINEAR_1001,
) -> None:
    register(Method(name, summary, build_denoiser, name, schedule, size_training=SIZE_TRAINING))


_register("supervised", "the same U-Net without diffusion", schedule=None)
_register("diffusion", "standard diffusion, x_t from the truth")
_register("recycling", "x_t from the prediction at x_T (Fu et al. 2023)")
_register("recycling_next", "x_t from the prediction at x_{t+1} (Fu et al., workshop)")
_register("self_conditioning", "the prediction at x_t as further input (Chen et al. 2022)", _build_self_conditioned)
_register(
    "self_conditioning_next",
    "the prediction at x_{t+1} as further input (Watson et al. 2023)",
    _build_self_conditioned,
)
