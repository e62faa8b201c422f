"""The method of Hejrati et al. (2024): x_0 predicted under a latent in a few steps, trained beside a discriminator."""

from __future__ import annotations

import logging
from typing import Any

import torch

from medsegdiff.errors import SpecError, check_options
from medsegdiff.methods.registry import Method, get_method, register
from medsegdiff.methods.run_spec import RunSpec
from medsegdiff.networks.codec import build_codec
from medsegdiff.networks.nets.cdal_discriminator import CDALDiscriminator
from medsegdiff.networks.nets.cdal_generator import CDALGenerator
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.schedulers import NoiseSchedule

logger = logging.getLogger(__name__)

ADVERSARIAL = "adversarial"
"""The strategy of methods that `AdversarialDiffusionTrainer` trains."""

# The paper names neither widths nor depths; these are its release's. Its hippocampus is cut into slices of 32 x 32.
PAPER_GENERATORS: dict[str, dict[str, Any]] = {
    "monuseg": {
        "channels": (64, 64, 64, 128, 128, 256, 256),
        "num_res_blocks": 2,
        "attention_levels": (4, 5),
        "encoder_blocks": 5,
        "latent_dim": 100,
        "style_dim": 256,
    },
    "cxr": {
        "channels": (32, 32, 64, 64, 128, 128),
        "num_res_blocks": 1,
        "attention_levels": (4,),
        "encoder_blocks": 6,
        "latent_dim": 100,
        "style_dim": 256,
    },
    "hippocampus": {
        "channels": (32, 64, 64, 64),
        "num_res_blocks": 1,
        "attention_levels": (1,),
        "encoder_blocks": 6,
        "latent_dim": 50,
        "style_dim": 128,
    },
}
LARGE_DISCRIMINATOR: dict[str, Any] = {"channels": (128, 256, 512, 512, 512, 512, 512), "time_dim": 256}
PAPER_DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "monuseg": LARGE_DISCRIMINATOR,
    "cxr": LARGE_DISCRIMINATOR,
    "hippocampus": {
        "channels": (128, 128, 256, 512, 512),
        "downsample": (False, True, True, True),
        "time_dim": 128,
        "normal_init": False,
    },
}
# Table 1 and the release: the best layer of 256 x 256 images is 32 x 32 for small cells and 16 x 16 for lungs.
ATTENTION_LAYERS = {"monuseg": "1/8", "cxr": "1/16", "hippocampus": "1/2"}
OTHER_TASKS = {2: "monuseg", 3: "hippocampus"}

# Width stands where it is cheap, at the coarse levels; what is computed at full resolution is narrow. 4.7 M parameters
# each; with its discriminator an iteration costs some 1.5 (2-D) to 2 (3-D) steps of the generator alone. Blind to x_t
# at first: on slices of 32 x 32 the squared error is then halved within 250 steps.
SMALL_GENERATORS: dict[int, dict[str, Any]] = {
    2: {"channels": (16, 16, 32, 64, 96, 128), "attention_levels": (4,)},
    3: {"channels": (16, 16, 48, 96), "attention_levels": (3,)},
}
SMALL_GENERATOR: dict[str, Any] = {
    "num_res_blocks": 1,
    "encoder_blocks": 2,
    "latent_dim": 50,
    "style_dim": 64,
    "mask_gain": 0.0,
}
SMALL_DISCRIMINATORS: dict[int, dict[str, Any]] = {
    2: {"channels": (16, 32, 64, 64, 64, 64), "time_dim": 64, "normal_init": False},
    3: {"channels": (12, 24, 48, 96), "time_dim": 64, "normal_init": False},
}


def build_cdal_generator(spec: RunSpec, mask_channels: int, schedule: NoiseSchedule | None) -> Denoiser:
    """The cDAL generator of a run; `spec.options` override what its size sets.

    Tasks that the paper does not have get at size "paper" the generator of MoNuSeg in 2-D, and that of the
    hippocampus in 3-D, where memory is short.

    Raises:
        SpecError: an option that the network does not have.
    """
    if spec.size == "small":
        options = {**SMALL_GENERATOR, **SMALL_GENERATORS[spec.spatial_dims]}
    else:
        options = dict(PAPER_GENERATORS[_like(spec)])
    options |= spec.options
    check_options(CDALGenerator.__init__, options, "the cDAL generator")
    if schedule is not None and schedule.num_train_timesteps > 1 and not options.get("latent", True):
        logger.warning(
            "cDAL without latent in %d steps: its paper finds a far lower Dice, since a step this large has more "
            "than one likely end",
            schedule.num_train_timesteps,
        )
    try:
        return CDALGenerator(
            spec.spatial_dims, spec.in_channels, mask_channels, mask_channels or spec.num_classes, **options
        )
    except TypeError as error:
        msg = f"options {spec.options} do not fit the cDAL generator ({error}); see medsegdiff.networks.nets for them"
        raise SpecError(msg) from error


def build_discriminator(spec: RunSpec, **options: Any) -> CDALDiscriminator:
    """The discriminator that belongs to a run's generator, with fresh weights.

    Args:
        spec: of the run.
        options: arguments of `CDALDiscriminator` in place of those that the run's size sets.

    Raises:
        SpecError: a method without discriminator, or an option that the network does not have.
    """
    method = get_method(spec.method)
    if method.strategy != ADVERSARIAL:
        msg = f"method {spec.method!r} is trained without a discriminator; use cdal"
        raise SpecError(msg)
    check_options(CDALDiscriminator.__init__, options, "the cDAL discriminator")
    sized = SMALL_DISCRIMINATORS[spec.spatial_dims] if spec.size == "small" else PAPER_DISCRIMINATORS[_like(spec)]
    channels = build_codec(method.codec, spec.num_classes).channels
    try:
        discriminator = CDALDiscriminator(spec.spatial_dims, channels, **{**sized, **options})
    except TypeError as error:
        msg = f"options {options} do not fit the cDAL discriminator ({error}); see medsegdiff.networks.nets for them"
        raise SpecError(msg) from error
    if spec.spatial_dims == 3:  # the layout in which 3-D convolutions are fastest
        discriminator.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in the stubs
    return discriminator


def paper_attention_layer(spec: RunSpec) -> str:
    """The discriminator's layer whose features make the attention map of a task (Table 1)."""
    return ATTENTION_LAYERS[_like(spec)]


def _like(spec: RunSpec) -> str:
    """The task of the paper whose sizes a run has."""
    known = spec.task in PAPER_GENERATORS and (spec.spatial_dims == 2 or spec.task == OTHER_TASKS[3])
    return spec.task if known else OTHER_TASKS[spec.spatial_dims]


register(
    Method(
        "cdal",
        "x_0 under a latent in a few steps, with attention (Hejrati et al. 2024)",
        build_cdal_generator,
        ADVERSARIAL,
        {"name": "cdal", "num_train_timesteps": 4},
        task_schedules={task: {"name": "cdal", "num_train_timesteps": 2} for task in ("cxr", "hippocampus")},
        codec="auto",
        prediction="tanh",
        time_sampler="uniform",
        steps=4,
        draws=5,
        # The release's. With 0.9, the output's tanh is far into saturation before it has learned where the mask lies:
        # on slices of the hippocampus the squared error after 250 steps is then 1.7 times as large.
        adam_betas=(0.5, 0.9),
    )
)
