"""Sampling by windows: what is skipped, stopped, estimated and refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medsegdiff.errors import DataError, SpecError
from medsegdiff.inferers import window_averaged
from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.networks.live_bytes import LiveBytes
from tests.inferers.mixing import WINDOWS, both_dims, images, mixing, plan_of, same

CPU = torch.device("cpu")
each_average = pytest.mark.parametrize("average", ["steps", "probabilities"])


class TestSkipping:
    @pytest.fixture
    def image(self) -> torch.Tensor:
        """Two images of 16 x 16 that are empty but for a part of 3 x 5 and of 2 x 2."""
        image = torch.full((2, 1, 16, 16), -1.5)
        image[0, 0, 5:8, 4:9] = torch.randn(3, 5)
        image[1, 0, 13:15, 1:3] = torch.randn(2, 2)
        return image

    @pytest.mark.parametrize("average", ["steps", "probabilities", "log_probabilities"])
    @pytest.mark.parametrize("supervised", [True, False])
    def test_only_windows_of_the_foreground_are_seen(self, image, average, supervised):
        segmenter = mixing(2, supervised=supervised, draws=2)
        inferer = WindowAveragedInferer(4, average=average, overlap=0, sw_batch_size=1, skip="foreground")
        result = inferer.sample(image, segmenter, cases=["a", "b"])
        windows = 2 + 1  # rows 4 to 7 of columns 4 to 11, and the window from (12, 0)
        assert len(segmenter.denoiser.calls) == windows * (1 if supervised else 4)
        everything = WindowAveragedInferer(4, average=average, overlap=0).sample(image, segmenter, cases=["a", "b"])
        inside = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
        inside[0, :, 4:8, 4:12] = True
        inside[1, :, 12:16, 0:4] = True
        background = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        assert torch.equal(result.probabilities, torch.where(inside, result.probabilities, background))
        assert not torch.where(inside, 0, result.variance).any()
        if average != "steps":  # where windows do not see each other, the others make no difference
            probabilities = torch.where(inside, everything.probabilities, background)
            torch.testing.assert_close(result.probabilities, probabilities)

    def test_windows_that_are_left_see_background_beyond(self, image):
        seen = []
        segmenter = mixing(2)
        inferer = WindowAveragedInferer(4, overlap=0.5, skip="foreground")
        inferer.sample(image, segmenter, callback=lambda step: seen.append(step.step.x_0) and None)
        background = segmenter.codec.encode(torch.zeros(1, 1, 1, 1))[0, :, 0, 0]
        for x_0 in seen:
            assert x_0.shape == (2, 3, 16, 16)
            assert torch.equal(x_0[0, :, 15, 15], background) and torch.equal(x_0[1, :, 0, 15], background)

    def test_foreground_may_be_a_threshold_or_a_function(self, image):
        counts = []
        for foreground in (None, 50.0, lambda one: one > 50):
            segmenter = mixing(2, supervised=True)
            image[0, 0, 0, 14] = 100.0
            inferer = WindowAveragedInferer(4, overlap=0, sw_batch_size=1, skip="foreground", foreground=foreground)
            inferer.sample(image[:1], segmenter)
            counts.append(len(segmenter.denoiser.calls))
        assert counts == [2 * 3, 1, 1]

    def test_an_empty_image_is_background_without_a_call(self, image):
        for average in ("steps", "probabilities"):
            segmenter = mixing(2)
            inferer = WindowAveragedInferer(4, average=average, skip="foreground")
            result = inferer.sample(torch.zeros_like(image), segmenter)
            assert not segmenter.denoiser.calls
            assert (result.probabilities[:, 0] == 1).all() and not result.probabilities[:, 1:].any()

    def test_where_nothing_can_be_skipped_nothing_changes(self):
        inferer = WindowAveragedInferer(4, skip="foreground")
        same(inferer.sample(images(), mixing()), WindowAveragedInferer(4).sample(images(), mixing()), rtol=0, atol=0)


class TestEarlyStop:
    @both_dims
    @pytest.mark.parametrize(("share", "steps"), [(None, (10, 10)), (0.001, (2, 2))])
    def test_draws_that_have_settled_are_stopped(self, make_segmenter, dims, share, steps):
        segmenter = make_segmenter(spatial_dims=dims, sharpness=1e4, steps=10, draws=4, draws_per_batch=2)
        calls = []
        segmenter.denoiser.register_forward_hook(lambda *_: calls.append(1))
        inferer = WindowAveragedInferer(WINDOWS[dims], sw_batch_size=1000, stop_when_unchanged=share)
        result = inferer.sample(images(dims), segmenter)
        assert result.steps == steps
        measuring = 1
        assert len(calls) in (sum(steps), sum(steps) + measuring)

    def test_the_result_is_that_of_the_last_step(self):
        segmenter, seen = mixing(2, steps=15), []
        inferer = WindowAveragedInferer(WINDOWS[2], stop_when_unchanged=0.2)
        result = inferer.sample(images(), segmenter, callback=lambda step: seen.append(step) and None)
        assert result.steps == (len(seen),) and 1 < len(seen) < 15
        torch.testing.assert_close(result.probabilities, segmenter.codec.probabilities(seen[-1].step.x_0))

    def test_windows_that_are_sampled_alone_stop_alone(self):
        inferer = WindowAveragedInferer(
            WINDOWS[2], average="probabilities", sw_batch_size=1, overlap=0, stop_when_unchanged=0.01
        )
        steps = inferer.sample(images(), mixing(2, steps=15)).steps
        assert len(steps) == 6 and len(set(steps)) > 1

    def test_a_callback_may_stop_as_well(self):
        result = WindowAveragedInferer(WINDOWS[2]).sample(
            images(), mixing(2, steps=10, draws=2, draws_per_batch=1), callback=lambda seen: seen.step.index == 2
        )
        assert result.steps == (3, 3)


class TestMemory:
    @each_average
    @pytest.mark.parametrize(
        "options", [{"draws": 1}, {"draws": 4}, {"draws": 5, "draws_per_batch": 2}, {"supervised": True}]
    )
    def test_no_more_is_taken_than_was_estimated(self, caplog, average, options):
        segmenter, image = mixing(3, **options), torch.randn(2, 1, 24, 20, 18)
        inferer = WindowAveragedInferer((12, 10, 9), average=average, overlap=0, sw_batch_size=2)
        plan = plan_of(caplog, inferer, image, segmenter)
        segmenter.denoiser.calls = _Forgetful()
        with LiveBytes() as live:
            inferer.sample(image, segmenter)
        assert 0.5 * plan.needed[CPU] < live.peak <= plan.needed[CPU]

    def test_too_little_is_refused_before_the_network_is_called(self):
        segmenter = mixing(3)
        volume = torch.zeros(1, 1, 1, 1, 1).expand(1, 1, 512, 512, 1000)
        inferer = WindowAveragedInferer((96, 96, 96), memory_budget="4GiB")
        with pytest.raises(SpecError, match=r"sampling 512x512x1000 by windows of 96x96x96 needs \d+\.\d GiB on cpu"):
            inferer.sample(volume, segmenter, cases=["a"])
        assert not segmenter.denoiser.calls and not segmenter.denoiser.encoded

    def test_the_plan_is_logged_once_for_cases_alike(self, caplog):
        inferer, segmenter = WindowAveragedInferer(4, overlap=0), mixing(2, draws=2)
        with caplog.at_level(logging.INFO, logger=window_averaged.__name__):
            for case in "ab":
                inferer.sample(images(), segmenter, cases=[case])
            inferer.sample(images(batch=2), segmenter, cases=["a", "b"])
        first, second = (record.getMessage() for record in caplog.records)
        assert first.startswith(
            "6 windows in 2 batches of 3 x 2 of 2 draws, conditions kept, stitched on cpu; estimated"
        )
        assert second.startswith("12 windows in 3 batches of 4 x 2")


def test_called_as_an_inferer_it_keeps_the_metadata_and_names_the_noise():
    image = MetaTensor(images(), meta={"filename_or_obj": ["case_07.nii.gz"]})
    inferer, segmenter = WindowAveragedInferer(WINDOWS[2]), mixing()
    result = inferer(image, segmenter)
    assert isinstance(result, MetaTensor) and result.meta["filename_or_obj"] == ["case_07.nii.gz"]
    named = inferer.sample(images(), segmenter, cases=["case_07"]).probabilities
    torch.testing.assert_close(result.as_tensor(), named, rtol=0, atol=0)
    assert type(inferer(images(), segmenter)) is torch.Tensor


def test_the_network_may_be_wrapped_and_stays_as_it_was():
    segmenter = mixing().train()
    wrapped = nn.Module()
    wrapped.module = segmenter
    inferer = WindowAveragedInferer(WINDOWS[2])
    torch.testing.assert_close(inferer(images(), wrapped), inferer(images(), segmenter), rtol=0, atol=0)
    assert segmenter.training and segmenter.denoiser.training


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"average": "logits"}, "average 'logits' does not exist; use one of steps, probabilities, log_prob"),
            ({"mode": "mean"}, "no blending 'mean'"),
            ({"skip": "air"}, "skip 'air' does not exist; use one of none, foreground"),
            ({"foreground": 0.5}, "got a foreground, but windows are not skipped; give skip='foreground' too"),
            ({"overlap": 1}, "overlap is 1; give a share"),
            ({"sw_batch_size": 0}, "sw_batch_size is 0; give at least 1"),
            ({"memory_budget": "much"}, "memory_budget is 'much'"),
            ({"stitch_device": "abacus"}, "device 'abacus' cannot be used on this machine"),
            ({"stop_when_unchanged": 2}, "stop_when_unchanged is 2"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(SpecError, match=message):
            WindowAveragedInferer(4, **options)

    @pytest.mark.parametrize(
        ("image", "options", "error", "message"),
        [
            (torch.zeros(1, 1, 9, 9, 9), {}, DataError, "add or drop an axis"),
            (torch.zeros(1, 2, 9, 9), {}, DataError, "an image of 2 channels"),
            (torch.zeros(1, 1, 9, 9), {"cases": ["a", "b"]}, DataError, "got 2 case names for 1 images"),
        ],
    )
    def test_images(self, image, options, error, message):
        with pytest.raises(error, match=message):
            WindowAveragedInferer(4).sample(image, mixing(), **options)

    def test_windows_of_other_axes_than_the_image(self):
        with pytest.raises(SpecError, match=r"roi_size is \[4, 4, 4\], for 3 axes; the image has 2"):
            WindowAveragedInferer((4, 4, 4)).sample(images(), mixing())


class _Forgetful(list):
    """A list that keeps nothing, so that what a network is shown does not stay alive."""

    def append(self, _: Any) -> None:
        pass
