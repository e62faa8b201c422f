"""Volumes by overlapping windows that agree while they are sampled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer

from medsegdiff.errors import SpecError, check_at_least
from medsegdiff.inferers.base import Sampling
from medsegdiff.inferers.byte_budget import ByteBudget, parse_bytes
from medsegdiff.inferers.early_stop import StopWhenUnchanged
from medsegdiff.inferers.foreground import Foreground, foreground_box
from medsegdiff.inferers.loading import resolve_device
from medsegdiff.inferers.network_memory import window_memory
from medsegdiff.inferers.window_jobs import WindowJob, segment_by_windows
from medsegdiff.inferers.window_plan import WindowPlan, WindowTask, plan_windows
from medsegdiff.inferers.window_sampling import AVERAGES, WindowSampler
from medsegdiff.inferers.windows import WindowGrid, check_mode, check_overlap
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation, StepCallback, check_cases
from medsegdiff.networks.wrapping import unwrapped

SKIPS = ("none", "foreground")

logger = logging.getLogger(__name__)


class WindowAveragedInferer(Sampling, Inferer):
    """Segments images of any size by overlapping windows of the size that the network was trained on.

    With `average="steps"`, windows are blended at every visited step: the x_0 that they predict become one x_0 of the
    whole image, from which one step of the whole image is taken, under noise of the whole image. What a window sees
    next holds its neighbours' predictions too, so that windows agree the better the more the network goes by its noisy
    mask. Fu et al. (2023) sample every window to its end and average then: "probabilities" is the mean of their paper,
    "log_probabilities" that of their release, a geometric mean, clipped at 1e-5 and normalised again. All three cut
    their noise out of one field of the image, so that draw k of a case is the same whatever the batch, and where one
    window covers the image the result is that of sampling it whole, exactly. A supervised network is called once for
    every window, and its probabilities are blended.

    Memory is estimated before the network is called. The budget bounds how many windows and draws go through the
    network together; conditions of windows that fit are kept from step to step, others made again. The plan is logged.

    Args:
        roi_size: size of a window, for all axes or for each; 0 or less along an axis means the whole of it. Smaller
            images are padded with zeros and the result is cropped again.
        average: "steps", "probabilities" or "log_probabilities".
        overlap: share of a window that the next one covers too, in [0, 1), for all axes or for each.
        mode: of blending, "constant" or "gaussian", as in MONAI's `SlidingWindowInferer`.
        sw_batch_size: windows that go through the network together, if the budget allows, each with the
            `draws_per_batch` of the network; a `SlicewiseSegmenter` has as many as its `slices_per_batch`, if more.
        memory_budget: bytes to use on the network's device beside its weights, as a number or a text such as "8GB";
            None for four fifths of what is free when an image comes.
        stitch_device: where tensors of the image's size are, and the result: "auto" for the network's device where
            they fit into the budget, else the CPU; or a device.
        skip: "foreground" leaves out windows that do not meet the box around the foreground; what no window covers is
            background, with probability one. "none" leaves out none.
        foreground: what is foreground, see `medsegdiff.inferers.foreground.foreground_box`; for `skip="foreground"`.
        stop_when_unchanged: stop a group of draws when less than this share of its labels changed between two steps.
            `Segmentation.steps` says how many steps were taken. None takes all.

    Raises:
        SpecError: an option that does not exist.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        *,
        average: str = "steps",
        overlap: Sequence[float] | float = 0.25,
        mode: str = "gaussian",
        sw_batch_size: int = 4,
        memory_budget: int | float | str | None = None,
        stitch_device: str | torch.device = "auto",
        skip: str = "none",
        foreground: Foreground = None,
        stop_when_unchanged: float | None = None,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("average", average, AVERAGES), ("skip", skip, SKIPS)):
            if value not in allowed:
                msg = f"{name} {value!r} does not exist; use one of {', '.join(allowed)}"
                raise SpecError(msg)
        if foreground is not None and skip != "foreground":
            msg = "got a foreground, but windows are not skipped; give skip='foreground' too, or leave it out"
            raise SpecError(msg)
        check_at_least(1, sw_batch_size=sw_batch_size)
        if stop_when_unchanged is not None:
            StopWhenUnchanged(stop_when_unchanged)  # says what is wrong with the share, if anything is
        check_overlap(overlap)
        self.roi_size = roi_size
        self.average = average
        self.overlap = overlap
        self.mode = check_mode(mode)
        self.sw_batch_size = sw_batch_size
        self.memory_budget = parse_bytes(memory_budget)
        self.stitch_device = stitch_device
        if stitch_device != "auto":
            # A tensor knows the number of the device that a plain "cuda" stands for.
            self.stitch_device = torch.empty(0, device=resolve_device(stitch_device)).device
        self.skip = skip
        self.foreground = foreground
        self.stop_when_unchanged = stop_when_unchanged
        self._logged: set[WindowPlan] = set()

    def sample(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        *,
        cases: Sequence[str] | None = None,
        callback: StepCallback | None = None,
    ) -> Segmentation:
        """Segment a batch by windows.

        Args:
            inputs: images (B, image channels, *S), normalised as in training.
            network: a segmenter of any kind.
            cases: a name for each image, part of the key of its noise; by default the files' names.
            callback: called after every step of every group of draws, with x_t and x_0 of the whole images; of every
                batch of windows, with theirs, where windows are sampled to their ends. With slices of volumes, what it
                sees is 2-D, all slices of a volume together.

        Returns:
            Mean and variance over draws, on `stitch_device`.

        Raises:
            DataError: images that the network does not take.
            SpecError: sizes that do not fit the image, or too little memory for a single window.
        """
        names = check_cases(inputs, cases)
        image = inputs.as_subclass(torch.Tensor)
        if self.skip == "foreground":
            boxes = [foreground_box(one, self.foreground) for one in image]
        else:
            boxes = [tuple(slice(0, n) for n in image.shape[2:])] * len(image)
        job = WindowJob(
            image=image,
            names=names,
            boxes=boxes,
            roi_size=self.roi_size,
            overlap=self.overlap,
            at_once=self.sw_batch_size,
            callback=callback,
        )
        return segment_by_windows(unwrapped(network), job, self._segment)

    def _segment(self, segmenter: DiffusionSegmenter, job: WindowJob) -> Segmentation:
        """Segment with a single network of images of as many axes as it takes."""
        segmenter.check_image(job.image)
        device = next((parameter.device for parameter in segmenter.parameters()), job.image.device)
        grids = _grids(job)
        grid, channels = grids[0], job.image.shape[1]
        task = WindowTask(
            segmenter=segmenter,
            average=self.average,
            images=len(job.image),
            size=grid.size,
            roi_size=grid.roi_size,
            windows=sum(len(one.windows) for one in grids),
            at_once=job.at_once,
            memory=window_memory(segmenter, channels, grid.roi_size, device),
            padding_channels=channels if grid.is_padded else 0,
            held_maps=job.held_maps,
            compares_labels=self.stop_when_unchanged is not None,
        )
        plan = plan_windows(
            task,
            ByteBudget(self.memory_budget, device),
            stitch_devices=self._stitch_devices(device),
            image_device=job.image.device,
        )
        if plan not in self._logged:  # cases of one size are mostly planned alike
            logger.info("%s", plan)
            self._logged.add(plan)
        callback = job.callback
        if self.stop_when_unchanged is not None:
            callback = StopWhenUnchanged(self.stop_when_unchanged, callback)
        sampler = WindowSampler(segmenter, job.image, grids, plan, average=self.average, mode=self.mode, device=device)
        return sampler.sample(job.names, callback)

    def _stitch_devices(self, network: torch.device) -> list[torch.device]:
        """Where a volume may be stitched, the best device first."""
        if isinstance(self.stitch_device, torch.device):
            return [self.stitch_device]
        return list(dict.fromkeys([network, torch.device("cpu")]))


def _grids(job: WindowJob) -> list[WindowGrid]:
    """The windows of each image; images with the same box share theirs."""
    grids: dict[tuple[tuple[int, int], ...], WindowGrid] = {}
    keys = [tuple((part.start, part.stop) for part in box) for box in job.boxes]
    for key, box in zip(keys, job.boxes, strict=True):
        if key not in grids:
            grids[key] = WindowGrid(job.image.shape[2:], job.roi_size, overlap=job.overlap, box=box)
    return [grids[key] for key in keys]
