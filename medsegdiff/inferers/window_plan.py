"""How a volume is taken through a network by windows within the memory that there is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from medsegdiff.errors import SpecError
from medsegdiff.inferers.byte_budget import ByteBudget, format_bytes
from medsegdiff.inferers.network_memory import WindowMemory
from medsegdiff.networks.segmenter import DiffusionSegmenter

CONDITIONS = {
    "free": "cut from the image",
    "once": "used once",
    "kept": "kept",
    "again": "made again for every use",
}
"""What may become of the windows' conditions, in words."""

_CPU = torch.device("cpu")
_FLOAT = 4
_PACKING = 5  # maps of a class while its mean is unpacked and packed again
_STATES = 7  # of the size of x_0 live while a step is taken: x_T, x_t, x_0, its noise and three in between


@dataclass(frozen=True)
class WindowTask:
    """What is to be done, as far as memory depends on it.

    Attributes:
        segmenter: a single network.
        average: see `WindowAveragedInferer`.
        images: B.
        size: *S of the padded images.
        roi_size: of a window.
        windows: how many windows all images have together.
        at_once: windows that may go through the network together.
        memory: of one window.
        padding_channels: channels of the images where these are copied to be padded, else 0.
        held_maps: further maps (*S) of each image, float32, that others hold meanwhile.
        compares_labels: whether labels of consecutive steps are compared.
    """

    segmenter: DiffusionSegmenter
    average: str
    images: int
    size: Sequence[int]
    roi_size: Sequence[int]
    windows: int
    at_once: int
    memory: WindowMemory
    padding_channels: int = 0
    held_maps: int = 0
    compares_labels: bool = False


@dataclass(frozen=True)
class WindowPlan:
    """How it is done.

    Attributes:
        windows: how many there are.
        windows_per_batch: how many go through the network together, each with all draws of a group.
        draws_per_batch: draws of a group.
        draws: in all.
        stitch_device: where tensors of the volume's size are.
        conditions: what becomes of the windows' conditions: one of `CONDITIONS`.
        keep_noise: whether the noise of a group of draws is kept, not made again for every batch of windows.
        needed: bytes, by device, at most.
        available: bytes that may be used, by device.
    """

    windows: int
    windows_per_batch: int
    draws_per_batch: int
    draws: int
    stitch_device: torch.device
    conditions: str
    keep_noise: bool
    needed: Mapping[torch.device, int] = field(compare=False)
    available: Mapping[torch.device, int] = field(compare=False)

    def __str__(self) -> str:
        batches = math.ceil(self.windows / max(self.windows_per_batch, 1))
        memory = ", ".join(
            f"{format_bytes(needed)} of {format_bytes(self.available[device])} on {device}"
            for device, needed in self.needed.items()
        )
        return (
            f"{self.windows} windows in {batches} batches of {self.windows_per_batch} x {self.draws_per_batch} of "
            f"{self.draws} draws, conditions {CONDITIONS[self.conditions]}, stitched on {self.stitch_device}; "
            f"estimated memory {memory}"
        )


def plan_windows(
    task: WindowTask, budget: ByteBudget, *, stitch_devices: Sequence[torch.device], image_device: torch.device
) -> WindowPlan:
    """The plan that takes most at once within a budget.

    The first device on which a volume can be stitched is taken. There, conditions are kept if they fit beside a
    single window and draw; then as many draws make a group, and as many windows a batch, as there is memory for; last,
    noise is kept where it fits too.

    Args:
        task: what is to be done.
        budget: what may be used.
        stitch_devices: where a volume may be stitched, the best first.
        image_device: where the images are.

    Raises:
        SpecError: there is not enough memory for one window and one draw at a time.
    """
    network = budget.device
    involved = dict.fromkeys([network, *stitch_devices, image_device, _CPU])
    available = {device: budget.available(device) for device in involved}
    for stitch, conditions, draws, windows in _choices(task, stitch_devices):
        needed = _needed(task, draws, windows, network=network, stitch=stitch, image=image_device)
        if conditions == "kept":
            needed[network] += math.ceil(task.windows / windows) * windows * task.memory.condition
        if any(count > available[device] for device, count in needed.items()):
            continue
        noise = _kept_noise(task, draws)
        keep_noise = noise > 0 and needed[stitch] + noise <= available[stitch]
        needed[stitch] += noise * keep_noise
        return WindowPlan(
            windows=task.windows,
            windows_per_batch=windows,
            draws_per_batch=draws,
            draws=_draws(task),
            stitch_device=stitch,
            conditions=conditions,
            keep_noise=keep_noise,
            needed=needed,
            available=available,
        )
    raise SpecError(_refusal(task, needed, available))


def even_size(total: int, most: int) -> int:
    """A size for batches of `total` things, up to `most` and above half of it, that leaves the last one fullest."""
    most = max(1, min(total, most))
    return min(range(most // 2 + 1, most + 1), key=lambda size: (-total % size, -size))


def _choices(task: WindowTask, stitch_devices: Sequence[torch.device]) -> Iterator[tuple[torch.device, str, int, int]]:
    """(stitch device, conditions, draws of a group, windows of a batch), best first and what takes least last."""
    draws = _draws(task)
    groups = dict.fromkeys(even_size(draws, n) for n in range(min(draws, task.segmenter.draws_per_batch), 0, -1))
    batches = dict.fromkeys(even_size(task.windows, n) for n in range(max(1, min(task.windows, task.at_once)), 0, -1))
    uses = {n: _uses_of_conditions(task, n) for n in groups}
    kinds = [("kept", n) for n in groups if uses[n] == "again"] + [(uses[n], n) for n in groups]
    if uses[max(groups)] != "again":  # one group of all draws has nothing to keep
        kinds.sort(key=lambda kind: -kind[1])
    for stitch in stitch_devices:
        for conditions, n in kinds:
            for windows in batches:
                yield stitch, conditions, n, windows


def _draws(task: WindowTask) -> int:
    return 1 if task.segmenter.supervised else task.segmenter.draws


def _needed(
    task: WindowTask, draws: int, windows: int, *, network: torch.device, stitch: torch.device, image: torch.device
) -> dict[torch.device, int]:
    """Bytes on each device for `draws` draws a group and `windows` windows a batch, nothing kept."""
    one_map = task.images * math.prod(task.size) * _FLOAT  # of one channel of all images
    noise = 0 if task.segmenter.supervised else draws * task.segmenter.codec.channels * one_map
    needed = dict.fromkeys([network, stitch], 0)
    needed[stitch] += int(_maps(task, draws) * one_map)
    needed[network] += windows * _window(task, draws)
    if noise:  # is drawn on the CPU, one field after the other and then as one tensor
        needed[_CPU] = needed.get(_CPU, 0) + noise * (1 if stitch == _CPU else 2)
    if task.padding_channels:
        needed[image] = needed.get(image, 0) + task.padding_channels * one_map
    return needed


def _window(task: WindowTask, draws: int) -> int:
    """Bytes of one window with its draws: what the network takes, and states as of a volume that is sampled whole."""
    states = draws * _STATES * task.segmenter.codec.channels * math.prod(task.roi_size) * _FLOAT
    return states + max(task.memory.encode, task.memory.condition + draws * task.memory.denoise)


def _maps(task: WindowTask, draws: int) -> float:
    """Maps (B, *S), float32, that live at once on the stitching device."""
    segmenter = task.segmenter
    channels, classes = segmenter.codec.channels * draws, segmenter.codec.num_classes
    held = task.held_maps + 1.0  # the sum of weights
    if segmenter.supervised:
        return held + classes + 1  # blended, and a variance of zeros
    several = segmenter.draws > 1
    moments = 0.75 * classes + 1  # mean, in three bytes a number, and squares
    between = moments if segmenter.draws > draws else 0  # while later groups are sampled
    # A draw joins the moments class by class, by way of some maps more.
    at_end = classes * draws + (moments + _PACKING if several else 1)
    if task.average == "steps":
        # later, x_0 and what turns it into probabilities
        sampling = max(_STATES * channels, channels + 3 * classes * draws)
    else:
        sampling = channels + classes * draws  # one noise, and what is blended
    labels = 1.25 * draws if task.compares_labels else 0  # twice two bytes, and where they differ
    return held + max(sampling + between + labels, at_end)


def _uses_of_conditions(task: WindowTask, draws: int) -> str:
    """Of `CONDITIONS`, what they are where nothing is kept."""
    if task.memory.condition == 0:
        return "free"
    if task.segmenter.supervised:
        return "once"
    groups = math.ceil(task.segmenter.draws / draws)
    return "once" if groups * (task.segmenter.steps if task.average == "steps" else 1) == 1 else "again"


def _kept_noise(task: WindowTask, draws: int) -> int:
    """Bytes of all fields of noise but one, which is there in any case; nothing where each serves only once."""
    if task.segmenter.supervised or task.average == "steps":
        return 0
    fields = task.segmenter.steps - 1
    return fields * draws * task.segmenter.codec.channels * task.images * math.prod(task.size) * _FLOAT


def _refusal(task: WindowTask, needed: Mapping[torch.device, int], available: Mapping[torch.device, int]) -> str:
    short = {device: count for device, count in needed.items() if count > available[device]}
    numbers = " and ".join(
        f"{format_bytes(count)} on {device}, where {format_bytes(available[device])} may be used"
        for device, count in short.items()
    )
    volume = "x".join(map(str, task.size)) + (f" ({task.images} of them)" if task.images > 1 else "")
    return (
        f"sampling {volume} by windows of {'x'.join(map(str, task.roi_size))} needs {numbers}, with one window and "
        f"one draw at a time ({_share(task, needed)}); take a smaller roi_size, a coarser spacing, another "
        "stitch_device or a larger memory_budget"
    )


def _share(task: WindowTask, needed: Mapping[torch.device, int]) -> str:
    window = _window(task, 1)
    return f"{format_bytes(window)} for the window, {format_bytes(sum(needed.values()) - window)} for the volume"
