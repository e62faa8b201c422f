"""Plans within a budget: what is taken at once, what is kept, where it is stitched, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.inferers.network_memory import WindowMemory
from medsegdiff.inferers.window_plan import WindowPlan, WindowTask, even_size, plan_windows

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
MEMORY = WindowMemory(encode=3000, condition=1000, denoise=2000)
GIB = 2**30


class Budget:
    """So many bytes on each device."""

    def __init__(self, device: torch.device, **available: int) -> None:
        self.device = device
        self.bytes = {CPU: available.get("cpu", 10**15), GPU: available.get("gpu", 10**15)}

    def available(self, device: torch.device) -> int:
        return self.bytes[device]


@pytest.fixture
def task(make_segmenter):
    """Ten windows of a 2-D image of 10 x 10, with 4 draws in groups of up to 4."""
    segmenter = make_segmenter(spatial_dims=2, draws=4, draws_per_batch=4)
    return WindowTask(
        segmenter, "steps", images=1, size=(10, 10), roi_size=(4, 4), windows=10, at_once=5, memory=MEMORY
    )


def plan(task: WindowTask, *, device: torch.device = CPU, stitch: list[torch.device] | None = None, **available: int):
    return plan_windows(
        task,
        Budget(device, **available),
        stitch_devices=stitch or [device],
        image_device=device,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("total", "most", "size"),
    [(10, 5, 5), (10, 4, 4), (9, 4, 3), (18, 4, 3), (12, 4, 4), (7, 4, 4), (3, 8, 3), (1, 1, 1), (0, 4, 1), (5, 2, 2)],
)
def test_batches_are_as_even_as_they_can_be(total, most, size):
    assert even_size(total, most) == size


def test_with_plenty_of_memory_all_is_kept_and_batches_are_as_large_as_allowed(task):
    got = plan(task)
    assert (got.windows_per_batch, got.draws_per_batch, got.conditions) == (5, 4, "kept")
    assert got.stitch_device == CPU


def test_a_plan_keeps_to_its_budget_until_nothing_fits(task):
    previous = plan(task)
    least = None
    for available in range(previous.needed[CPU] + 2000, 0, -500):
        try:
            got = plan(task, cpu=available)
        except SpecError:
            least = least or available
            continue
        assert least is None  # what was refused once is not allowed with less
        assert got.needed[CPU] <= available
        assert got.needed[CPU] <= previous.needed[CPU]
        assert got.draws_per_batch <= previous.draws_per_batch
        previous = got
    assert (previous.windows_per_batch, previous.draws_per_batch, previous.conditions) == (1, 1, "again")
    assert previous.needed[CPU] - 500 <= least < previous.needed[CPU]


def test_windows_are_given_up_before_draws_and_both_before_conditions(task):
    full = plan(task)
    seen = [(full.conditions, full.draws_per_batch, full.windows_per_batch)]
    available = full.needed[CPU]
    while seen[-1] != ("again", 1, 1):
        assert plan(task, cpu=available).needed[CPU] == available
        got = plan(task, cpu=available - 1)
        seen.append((got.conditions, got.draws_per_batch, got.windows_per_batch))
        available = got.needed[CPU]
    windows = [5, 4, 2, 1]  # three would leave the last of four batches with a single one
    kept = [("kept", draws, n) for draws in (4, 2, 1) for n in windows]
    again = [("again", draws, n) for draws in (4, 2, 1) for n in windows]
    assert [choice for choice in kept + again if choice in seen] == seen
    assert {("kept", 4, 5), ("kept", 4, 1), ("kept", 1, 1), ("again", 1, 1)} <= set(seen)


def test_mean_and_squares_wait_while_later_groups_are_sampled(task, make_segmenter):
    one, two = (
        plan(replace(task, segmenter=make_segmenter(spatial_dims=2, draws=draws, draws_per_batch=2))).needed[CPU]
        for draws in (2, 4)
    )
    assert two - one == (3 * 3 + 4) * 100  # three bytes for each of three classes, and one variance


def test_comparing_labels_takes_memory(task):
    compared = plan(replace(task, compares_labels=True), cpu=10**9).needed[CPU]
    assert compared - plan(task, cpu=10**9).needed[CPU] == 1.25 * 4 * 100 * 4


def test_windows_take_what_was_estimated(task):
    one, two = plan(replace(task, at_once=1)), plan(replace(task, at_once=2))
    assert one.windows_per_batch == 1 and two.windows_per_batch == 2
    states = 4 * 3 * 4 * 4 * 4  # of 4 draws with 3 channels, float32
    assert two.needed[CPU] - one.needed[CPU] == MEMORY.condition + 4 * MEMORY.denoise + 7 * states


@pytest.mark.parametrize("average", ["steps", "probabilities"])
@pytest.mark.parametrize("images", [1, 3])
def test_tensors_of_the_volume_are_counted(task, average, images):
    task = replace(task, average=average, images=images, at_once=1)
    one_map = images * 100 * 4
    small = plan(task).needed[CPU]
    held = plan(replace(task, held_maps=7)).needed[CPU]
    padded = plan(replace(task, padding_channels=2)).needed[CPU]
    assert held - small == 7 * one_map
    assert padded - small == 2 * one_map
    # x_t, x_0, x_0 before and the noise at the least, of 4 draws with 3 channels; or the noise and what is blended
    assert small > (4 if average == "steps" else 2) * 12 * one_map


@pytest.mark.parametrize(
    ("changes", "conditions"),
    [
        ({"memory": WindowMemory(100, 0, 2000)}, "free"),
        ({"average": "probabilities"}, "once"),
        ({}, "kept"),
    ],
)
def test_only_what_is_used_again_is_kept(task, changes, conditions):
    assert plan(replace(task, **changes)).conditions == conditions


def test_conditions_serve_every_group_of_draws(task, make_segmenter):
    several = make_segmenter(spatial_dims=2, draws=4, draws_per_batch=2)
    assert plan(replace(task, segmenter=several, average="probabilities")).conditions == "kept"
    single = make_segmenter(spatial_dims=2, draws=2, steps=1)
    assert plan(replace(task, segmenter=single)).conditions == "once"


def test_noise_is_kept_where_windows_are_sampled_one_after_the_other(task):
    assert not plan(task).keep_noise
    kept = plan(replace(task, average="probabilities"))
    assert kept.keep_noise
    again = plan(replace(task, average="probabilities"), cpu=kept.needed[CPU] - 1)
    assert not again.keep_noise and again.windows_per_batch == kept.windows_per_batch
    assert kept.needed[CPU] - again.needed[CPU] == 2 * 4 * 3 * 100 * 4  # 2 of 3 fields, 4 draws, 3 channels


def test_a_supervised_network_takes_one_draw_and_keeps_nothing(task, make_segmenter):
    got = plan(replace(task, segmenter=make_segmenter(spatial_dims=2, supervised=True, draws=4)))
    assert (got.draws_per_batch, got.draws, got.conditions, got.keep_noise) == (1, 1, "once", False)


class TestStitching:
    def test_is_done_on_the_networks_device_where_there_is_room(self, task):
        got = plan(task, device=GPU, stitch=[GPU, CPU])
        assert got.stitch_device == GPU
        assert got.needed[CPU] == 2 * 4 * 3 * 100 * 4  # noise is drawn there

    def test_falls_back_to_the_cpu(self, task):
        on_gpu = plan(task, device=GPU, stitch=[GPU, CPU])
        alone = 3000 + 7 * 3 * 16 * 4
        got = plan(task, device=GPU, stitch=[GPU, CPU], gpu=alone)
        assert got.stitch_device == CPU
        assert got.needed[GPU] <= alone < on_gpu.needed[GPU]
        assert got.needed[CPU] > on_gpu.needed[CPU]

    def test_on_one_device_only_may_be_refused(self, task):
        with pytest.raises(SpecError, match=r"on cuda:0, where 3.9 KiB may be used"):
            plan(task, device=GPU, stitch=[GPU], gpu=4000)

    def test_the_host_must_have_room_too(self, task):
        with pytest.raises(SpecError, match=r"needs .* on cpu, where 1000 bytes may be used"):
            plan(task, device=GPU, stitch=[GPU, CPU], gpu=5000, cpu=1000)


def test_the_refusal_says_what_is_needed_and_what_to_do(task):
    with pytest.raises(
        SpecError,
        match=r"sampling 10x10 by windows of 4x4 needs .* KiB on cpu, where 4.9 KiB may be used, with one window and "
        r"one draw at a time \(4.2 KiB for the window, .* for the volume\); take a smaller roi_size",
    ):
        plan(task, cpu=5000)


def test_a_plan_can_be_read(task):
    assert str(plan(task, cpu=10**6)).startswith(
        "10 windows in 2 batches of 5 x 4 of 4 draws, conditions kept, stitched on cpu; estimated memory "
    )
    assert str(plan(task, cpu=10**6)).endswith(" of 976.6 KiB on cpu")
    assert plan(task, cpu=10**6) == plan(task, cpu=10**6 + 1)


class TestAWholeBodyScan:
    """512 x 512 x 1000 voxels, one channel, two classes, windows of 96^3 at an overlap of a quarter."""

    WINDOWS = 7 * 7 * 14
    ONE_MAP = 512 * 512 * 1000 * 4

    def task(self, make_segmenter, **options) -> WindowTask:
        segmenter = make_segmenter(num_classes=2, **options)
        # As much as 256 float32 maps of a window: about what the network of the recycling paper takes.
        memory = WindowMemory(encode=96**3 * 6, condition=0, denoise=int(1.5 * 256 * 96**3 * 4))
        return WindowTask(
            segmenter,
            "steps",
            images=1,
            size=(512, 512, 1000),
            roi_size=(96, 96, 96),
            windows=self.WINDOWS,
            at_once=4,
            memory=memory,
        )

    def stitched(self, make_segmenter, gib: float, **options) -> WindowPlan:
        return plan(self.task(make_segmenter, **options), device=GPU, stitch=[GPU], gpu=int(gib * GIB))

    def test_is_planned_on_24_gib(self, make_segmenter):
        got = self.stitched(make_segmenter, 24)
        assert got.needed[GPU] <= 24 * GIB
        assert got.needed[GPU] > 14 * self.ONE_MAP + self.task(make_segmenter).memory.denoise

    def test_is_refused_on_8_gib(self, make_segmenter):
        with pytest.raises(SpecError, match=r"512x512x1000 .* needs 1\d\.\d GiB on cuda:0, where 8.0 GiB may be used"):
            self.stitched(make_segmenter, 8)

    def test_draws_are_taken_one_after_the_other(self, make_segmenter):
        got = self.stitched(make_segmenter, 24, draws=10)
        assert got.draws_per_batch == 1
        assert got.needed[GPU] <= 24 * GIB

    def test_a_small_gpu_leaves_the_volume_to_the_host(self, make_segmenter):
        got = plan(self.task(make_segmenter), device=GPU, stitch=[GPU, CPU], gpu=4 * GIB, cpu=64 * GIB)
        assert got.stitch_device == CPU
        assert math.ceil(got.needed[CPU] / self.ONE_MAP) < 20
