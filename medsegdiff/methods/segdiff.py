"""The method of Amit et al. (2021): noise predicted by a U-Net over the sum of two encodings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medsegdiff.errors import SpecError, check_options
from medsegdiff.methods.registry import Method, register
from medsegdiff.methods.run_spec import RunSpec
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.nets.segdiff_unet import SegDiffUNet
from medsegdiff.networks.schedulers import NoiseSchedule

# Section 5, "Training details": 256 x 256 has seven levels and 128 x 128 six; the shorter rows go on in their manner.
MULTIPLIERS: dict[int, tuple[int, ...]] = {
    1: (1,),
    2: (1, 2),
    3: (1, 2, 4),
    4: (1, 2, 4, 4),
    5: (1, 2, 2, 4, 4),
    6: (1, 1, 2, 2, 4, 4),
    7: (1, 1, 1, 2, 2, 4, 4),
}
NUM_RRDBS = {"monuseg": 12, "vaihingen": 6, "cityscapes": 15}
OTHER_NUM_RRDBS = 12
ATTENTION_RESOLUTIONS = (16, 8)

# The paper has no network in 3-D, where its 128 channels and 12 RRDBs at full resolution would take 150 TFLOP to see
# 128 x 128 x 128 once. These are the widths of the recycling paper's networks, and three RRDBs, which the appendix
# finds enough, of half the width: 10 TFLOP.
PAPER_WIDTH = {2: 128, 3: 32}
PAPER_3D_RRDBS = {"num_rrdbs": 3, "rrdb_channels": 32, "rrdb_growth": 16}

# Width stands where it is cheap, at the coarse levels; what is computed at full resolution is narrow. A training step
# takes some 0.9 s an image of 256 x 256 on one core, and 2 s a volume of 40 x 56 x 40; 5.6 and 5.0 M parameters.
SMALL_CHANNELS = {2: (16, 32, 64, 96, 128, 128), 3: (16, 32, 64, 96)}
SMALL_OPTIONS: dict[str, Any] = {
    "num_res_blocks": 1,
    "num_rrdbs": 1,
    "rrdb_channels": 16,
    "rrdb_growth": 8,
    "time_dim": 128,
    "min_group_size": 8,
}


def build_segdiff_unet(spec: RunSpec, mask_channels: int, schedule: NoiseSchedule | None) -> Denoiser:
    """The SegDiff U-Net of a run; `spec.options` override what its size sets.

    Beside the arguments of `SegDiffUNet`, the option `attention_resolutions` says at which sizes of the feature maps
    there is attention (paper: 16 and 8); see `levels_with_sides`.

    Raises:
        SpecError: an option that the network does not have.
    """
    options = {**size_options(spec), "attention_resolutions": ATTENTION_RESOLUTIONS, **spec.options}
    resolutions = options.pop("attention_resolutions")
    owner = "the SegDiff U-Net (apart from attention_resolutions)"
    check_options(SegDiffUNet.__init__, options, owner, leave_out=("num_train_timesteps",))
    if schedule is not None:
        options["num_train_timesteps"] = schedule.num_train_timesteps
    try:
        options.setdefault("attention_levels", levels_with_sides(resolutions, spec.roi_size, len(options["channels"])))
        return SegDiffUNet(
            spec.spatial_dims, spec.in_channels, mask_channels, mask_channels or spec.num_classes, **options
        )
    except TypeError as error:
        msg = f"options {spec.options} do not fit the SegDiff U-Net ({error}); see medsegdiff.networks.nets for them"
        raise SpecError(msg) from error


def size_options(spec: RunSpec) -> dict[str, Any]:
    """The arguments of `SegDiffUNet` that the run's size sets."""
    levels = count_levels(spec.roi_size)
    if spec.size == "small":
        return {**SMALL_OPTIONS, "channels": SMALL_CHANNELS[spec.spatial_dims][:levels]}
    rrdbs = PAPER_3D_RRDBS if spec.spatial_dims == 3 else {"num_rrdbs": NUM_RRDBS.get(spec.task, OTHER_NUM_RRDBS)}
    return {**rrdbs, "channels": tuple(PAPER_WIDTH[spec.spatial_dims] * factor for factor in MULTIPLIERS[levels])}


def count_levels(roi_size: Sequence[int]) -> int:
    """How many levels a U-Net for images of this size has: seven for 256 x 256 and six for 128 x 128, as in the paper.

    The size is halved until the longest side would fall below 4 voxels, or the shortest below 2.
    """
    halvings = min(math.log2(max(roi_size) / 4), math.log2(min(roi_size) / 2))
    return min(max(math.floor(halvings), 0) + 1, max(MULTIPLIERS))


def levels_with_sides(resolutions: Sequence[int], roi_size: Sequence[int], levels: int) -> list[int]:
    """The levels at which the longest side of a feature map has one of these sizes, or is nearest to it (by ratio).

    With 256 x 256 the sizes 16 and 8 are levels 4 and 5. For images that are not square, or no power of two, the
    longest side counts: with 40 x 56 x 40 they are levels 2 (14 long) and 3 (7 long). Sizes that no level comes near
    to have none.

    Raises:
        SpecError: a size below 1.
    """
    if any(side < 1 for side in resolutions):
        msg = f"attention_resolutions is {list(resolutions)}; give sizes of feature maps, of at least 1 voxel"
        raise SpecError(msg)
    nearest = {round(math.log2(max(roi_size) / side)) for side in resolutions}
    return sorted(nearest & set(range(levels)))


register(
    Method(
        "segdiff",
        "noise predicted from the sum of two encodings (Amit et al. 2021)",
        build_segdiff_unet,
        "diffusion",
        {"name": "segdiff", "num_train_timesteps": 100},
        codec="auto",
        prediction="epsilon",
        time_sampler="uniform",
        prediction_options={"clip_x_0": False},
        # Equation 19 hardly asks for the mask where x_t is all noise, and that is where sampling starts. On slices of
        # the hippocampus, after 300 steps of 32 slices, 25 steps of DDIM end at a Dice of .18 by it, of .40 where its
        # errors are weighted towards those of x_0, of .74 by the squared error of v, and of .80 by cross-entropy and
        # Dice of the classes: what few steps on a CPU need.
        size_predictions={"small": {"name": "logits"}},
        steps=100,
        draws=30,
    )
)
