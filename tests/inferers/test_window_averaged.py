"""Sampling by windows: what may make no difference, and what must."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn import functional as F

from medsegdiff.data.noise import SamplingNoise
from medsegdiff.errors import SpecError
from medsegdiff.inferers import window_averaged
from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.inferers.windows import WindowGrid
from medsegdiff.methods import METHODS, RunSpec, build_segmenter
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation, SegmenterStep
from tests.inferers.mixing import SIZES, WINDOWS, both_dims, differ, images, mixing, plan_of, same

each_average = pytest.mark.parametrize("average", ["steps", "probabilities"])
each_mode = pytest.mark.parametrize("mode", ["constant", "gaussian"])


class TestOneWindow:
    @both_dims
    @each_average
    @each_mode
    @pytest.mark.parametrize("options", [{"draws": 1}, {"draws": 5, "draws_per_batch": 2}, {"sampler": "dpm_solver++"}])
    def test_equals_the_whole_image_exactly(self, dims, average, mode, options):
        segmenter, image = mixing(dims, **options), images(dims)
        whole = segmenter.sample(image, cases=["a"])
        windowed = WindowAveragedInferer(SIZES[dims], average=average, mode=mode, overlap=0.5).sample(
            image, segmenter, cases=["a"]
        )
        assert torch.equal(windowed.probabilities, whole.probabilities)
        assert torch.equal(windowed.variance, whole.variance)
        assert (windowed.draws, windowed.steps) == (whole.draws, whole.steps)

    @both_dims
    def test_of_several_images_equals_them_whole(self, dims):
        segmenter, image = mixing(dims, draws=2), images(dims, batch=3)
        windowed = WindowAveragedInferer(-1, sw_batch_size=3).sample(image, segmenter, cases=["a", "b", "c"])
        same(windowed, segmenter.sample(image, cases=["a", "b", "c"]), rtol=0, atol=0)

    @both_dims
    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_equals_the_whole_image_exactly_for_every_method(self, dims, method):
        size = SIZES[dims]
        options = {"channels": [8, 8], "num_res_blocks": 1}
        if method in ("segdiff", "cdal"):
            options |= {"attention_levels": []}
        names = ["background", "body"]
        spec = RunSpec("test", method, "small", dims, 1, names, list(size), options=options, steps=2, draws=2)
        segmenter = build_segmenter(spec).eval()
        for parameter in segmenter.parameters():  # many start at zero, where windows and noise make no difference
            nn.init.normal_(parameter, std=0.2)
        windowed = WindowAveragedInferer(size).sample(images(dims), segmenter, cases=["a"])
        whole = segmenter.sample(images(dims), cases=["a"])
        same(windowed, whole, rtol=0, atol=0)
        by_windows = WindowAveragedInferer(WINDOWS[dims]).sample(images(dims), segmenter, cases=["a"])
        assert differ(by_windows, whole)
        torch.testing.assert_close(by_windows.probabilities.sum(dim=1), torch.ones(1, *size))

    @both_dims
    @each_average
    def test_larger_than_the_image_is_padded_and_cropped_again(self, dims, average):
        segmenter, image, size = mixing(dims, draws=2), images(dims), [n + 3 for n in SIZES[dims]]
        padded = F.pad(image, [1, 2] * dims)
        whole = segmenter.sample(padded, cases=["a"])
        result = WindowAveragedInferer(size, average=average).sample(image, segmenter, cases=["a"])
        inside = (..., *[slice(1, 1 + n) for n in SIZES[dims]])
        same(result, Segmentation(whole.probabilities[inside], whole.variance[inside], 2), rtol=0, atol=0)


class TestWhatMakesNoDifference:
    @both_dims
    @each_average
    @each_mode
    @pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver++"])
    def test_windows_to_a_network_that_looks_at_one_voxel(self, make_segmenter, dims, average, mode, sampler):
        segmenter, image = make_segmenter(spatial_dims=dims, draws=2, sampler=sampler, steps=4), images(dims, batch=2)
        whole = segmenter.sample(image, cases=["a", "b"])
        inferer = WindowAveragedInferer(WINDOWS[dims], average=average, mode=mode, overlap=0.6)
        same(inferer.sample(image, segmenter, cases=["a", "b"]), whole)

    @both_dims
    @each_mode
    @pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
    @pytest.mark.parametrize("roi_size", [3, 4, 9])
    def test_windows_to_a_constant(self, dims, mode, overlap, roi_size):
        segmenter = mixing(dims, latent_dim=0)
        constant = torch.tensor([1.0, -0.5, 0.2]).view(1, 3, *[1] * dims)
        segmenter.denoiser.forward = lambda x_t, *_: constant.expand(x_t.shape)
        result = WindowAveragedInferer(roi_size, mode=mode, overlap=overlap).sample(images(dims), segmenter)
        torch.testing.assert_close(result.probabilities, constant.softmax(dim=1).expand(1, 3, *SIZES[dims]))

    @both_dims
    @each_average
    @pytest.mark.parametrize("prediction", ["epsilon", "v"])
    def test_windows_to_an_oracle(self, dims, average, prediction):
        """It knows x_0 from the image and predicts the noise that is in x_t."""
        schedule = linear_schedule(20)

        def forward(x_t, t, condition, x0_prev=None, z=None):
            signal, spread = schedule.scales(t, x_t)
            noise = (x_t - signal * condition) / spread
            return noise if prediction == "epsilon" else signal * noise - spread * condition

        segmenter = mixing(dims, latent_dim=0, encodes=False)
        segmenter.prediction, segmenter.schedule = build_prediction(prediction), schedule
        segmenter.denoiser.forward, segmenter.denoiser.image_channels = forward, 3
        x_0 = segmenter.codec.encode(torch.randint(0, 3, (1, 1, *SIZES[dims])))
        inferer = WindowAveragedInferer(WINDOWS[dims], average=average, overlap=0.5)
        result = inferer.sample(x_0, segmenter).probabilities
        torch.testing.assert_close(result, segmenter.codec.probabilities(x_0), atol=1e-4, rtol=0)

    @both_dims
    @each_average
    def test_the_order_of_windows(self, monkeypatch, dims, average):
        class Backwards(WindowGrid):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.windows.reverse()

        inferer = WindowAveragedInferer(WINDOWS[dims], average=average, overlap=0.5)
        forwards = inferer.sample(images(dims), mixing(dims, draws=2))
        monkeypatch.setattr(window_averaged, "WindowGrid", Backwards)
        same(inferer.sample(images(dims), mixing(dims, draws=2)), forwards)

    @both_dims
    @each_average
    @pytest.mark.parametrize("sw_batch_size", [1, 4, 1000])
    @pytest.mark.parametrize("draws_per_batch", [1, 2, 5])
    def test_how_many_go_at_once(self, dims, average, sw_batch_size, draws_per_batch):
        image = images(dims, batch=2)
        expected = WindowAveragedInferer(WINDOWS[dims], average=average).sample(image, mixing(dims, draws=5))
        inferer = WindowAveragedInferer(WINDOWS[dims], average=average, sw_batch_size=sw_batch_size)
        result = inferer.sample(image, mixing(dims, draws=5, draws_per_batch=draws_per_batch))
        same(result, expected, atol=1e-5, rtol=1e-5)

    @both_dims
    @each_average
    @pytest.mark.parametrize("draws_per_batch", [1, 3])
    def test_what_is_kept(self, caplog, dims, average, draws_per_batch):
        """Within the least budget conditions and noise are made again, and come out the same."""
        segmenter, image = mixing(dims, draws=3, draws_per_batch=draws_per_batch), images(dims)
        options = {"roi_size": WINDOWS[dims], "average": average, "overlap": 0.5}
        inferer = WindowAveragedInferer(**options)
        plan = plan_of(caplog, inferer, image, segmenter, cases=["a"])
        assert plan.conditions == "kept" or (average, draws_per_batch) == ("probabilities", 3)
        assert plan.keep_noise == (average == "probabilities")
        kept = inferer.sample(image, segmenter, cases=["a"])

        tight = WindowAveragedInferer(**options, memory_budget=_least(image, segmenter, options))
        plan = plan_of(caplog, tight, image, segmenter, cases=["a"])
        assert plan.conditions == "again" or (average, draws_per_batch) == ("probabilities", 3)
        assert not plan.keep_noise and plan.windows_per_batch == plan.draws_per_batch == 1
        segmenter.denoiser.calls.clear()
        same(tight.sample(image, segmenter, cases=["a"]), kept, atol=1e-5, rtol=1e-5)
        assert {len(call["x_t"]) for call in segmenter.denoiser.calls} == {1}

    @both_dims
    @each_average
    def test_how_many_draws_there_are_to_one_of_them(self, dims, average):
        def probabilities(**options):
            result = WindowAveragedInferer(WINDOWS[dims], average=average).sample(
                images(dims), mixing(dims, **options), cases=["a"]
            )
            return result.probabilities

        one, two, three = (probabilities(draws=n, draws_per_batch=2) for n in (1, 2, 3))
        second = 2 * two - one
        third = 3 * three - 2 * two
        alone = [probabilities(draws=n, draws_per_batch=1) for n in (1, 2, 3)]
        torch.testing.assert_close(2 * alone[1] - alone[0], second)
        torch.testing.assert_close(3 * alone[2] - 2 * alone[1], third)
        assert not torch.allclose(second, third, atol=1e-2)

    @each_average
    def test_neighbours_in_the_batch(self, average):
        inferer = WindowAveragedInferer(WINDOWS[3], average=average, sw_batch_size=3)
        segmenter, image = mixing(3, draws=2), images(3, batch=2)
        together = inferer.sample(image, segmenter, cases=["a", "b"])
        alone = inferer.sample(image[1:], segmenter, cases=["b"])
        torch.testing.assert_close(together.probabilities[1:], alone.probabilities)
        assert differ(inferer.sample(image[1:], segmenter, cases=["a"]), alone)


class TestSteps:
    @both_dims
    def test_every_window_sees_its_cut_of_what_was_blended(self, dims):
        segmenter, image, seen = mixing(dims, draws=2), images(dims), []
        inferer = WindowAveragedInferer(WINDOWS[dims], overlap=0.5, sw_batch_size=1)
        inferer.sample(image, segmenter, callback=lambda step: seen.append(step.step) and None)
        windows = WindowGrid(SIZES[dims], WINDOWS[dims], overlap=0.5).windows
        calls = segmenter.denoiser.calls
        assert len(calls) == 4 * len(windows)
        for number, call in enumerate(calls):
            step, window = divmod(number, len(windows))
            place = (..., *windows[window])
            assert torch.equal(call["x_t"], seen[step].x_t[place])
            assert (call["t"] == seen[step].t).all()
            if step == 0:
                assert call["x0_prev"] is None
            else:
                assert torch.equal(call["x0_prev"], seen[step - 1].x_0[place])

    @each_average
    @pytest.mark.parametrize("sw_batch_size", [1, 3])
    def test_windows_share_the_latent_of_their_draw_and_step(self, average, sw_batch_size):
        segmenter = mixing(2, draws=2, seed=3)
        inferer = WindowAveragedInferer(WINDOWS[2], average=average, sw_batch_size=sw_batch_size)
        inferer.sample(images(2, batch=2), segmenter, cases=["a", "b"])
        times = segmenter.schedule.timesteps(4)
        of_a, of_b = (SamplingNoise(3, [case], (3, *SIZES[2]), draws=(0, 1)) for case in "ab")
        used = {"a": 0, "b": 0}
        for call in segmenter.denoiser.calls:
            index = times.index(int(call["t"][0]))
            for pair in call["z"].split(2):
                found = [
                    case for case, noise in (("a", of_a), ("b", of_b)) if torch.equal(pair, noise.latent(index, 2))
                ]
                used[found[0]] += 1
        assert used["a"] > 0 and used["b"] > 0

    def test_windows_that_agree_are_not_windows_averaged_at_the_end(self):
        steps, probabilities = (
            WindowAveragedInferer(WINDOWS[2], average=average).sample(images(), mixing(), cases=["a"])
            for average in ("steps", "probabilities")
        )
        assert differ(steps, probabilities)

    @both_dims
    def test_a_callback_sees_the_image_without_its_padding(self, dims):
        size, seen = (12, 4, 8)[:dims], []
        segmenter = mixing(dims, draws=3, draws_per_batch=2)

        def keep(step: SegmenterStep) -> None:
            assert step.step.x_t.shape == step.step.x_0.shape == (len(step.draws), 3, *SIZES[dims])
            seen.append((list(step.draws), step))

        result = WindowAveragedInferer(size).sample(images(dims), segmenter, callback=keep)
        assert [draws for draws, _ in seen] == [[0, 1]] * 4 + [[2]] * 4
        last = [step for _, step in seen if step.step.t_prev < 0]
        draws = torch.cat([step.codec.probabilities(step.step.x_0) for step in last])
        torch.testing.assert_close(result.probabilities[0], draws.mean(dim=0))
        torch.testing.assert_close(result.variance[0, 0], draws.var(dim=0).sum(dim=0) / 2)

    @each_average
    @pytest.mark.parametrize("sw_batch_size", [2, 3, 4, 7])
    def test_all_batches_are_of_one_size(self, average, sw_batch_size):
        segmenter = mixing(2, draws=2)
        image = torch.randn(1, 1, 13, 13)
        inferer = WindowAveragedInferer(3, average=average, overlap=0, sw_batch_size=sw_batch_size)
        inferer.sample(image, segmenter)  # 25 windows
        assert len({call["x_t"].shape for call in segmenter.denoiser.calls}) == 1
        assert len(set(segmenter.denoiser.encoded)) == 1
        assert sw_batch_size < len(segmenter.denoiser.calls[0]["x_t"]) <= 2 * sw_batch_size

    def test_conditions_are_made_once_where_they_are_kept(self):
        segmenter = mixing(2, draws=4, draws_per_batch=2)
        WindowAveragedInferer(WINDOWS[2], overlap=0, sw_batch_size=1).sample(images(), segmenter)
        assert len(segmenter.denoiser.encoded) == 6
        assert len(segmenter.denoiser.calls) == 6 * 4 * 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_network_that_goes_by_its_noisy_mask_leaves_no_seam_where_windows_are_blended_at_every_step(seed):
    """It decides by the mean of its window at first, and follows x_t later; alone, windows decide apart."""
    size, roi_size = (48, 12), 12
    segmenter = mixing(latent_dim=0, encodes=False, sampler="ddim", steps=10, seed=seed)

    def forward(x_t, t, condition, x0_prev=None, z=None):
        share = (t / 19).view(-1, 1, 1, 1)
        decision = x_t.mean(dim=(2, 3), keepdim=True)
        return share * 40 * decision + (1 - share) * 6 * F.avg_pool2d(x_t, 3, stride=1, padding=1)

    def seam_ratio(average: str) -> float:
        inferer = WindowAveragedInferer(roi_size, average=average, mode="constant", overlap=0.5)
        result = inferer.sample(torch.zeros(1, 1, *size), segmenter, cases=["a"]).probabilities
        jumps = result.diff(dim=2).abs().mean(dim=(0, 1, 3))
        borders = torch.arange(1, size[0]) % 6 == 0
        return float(jumps[borders].mean() / jumps[~borders].mean())

    segmenter.denoiser.forward = forward
    assert seam_ratio("steps") < 0.05 * seam_ratio("probabilities")


class TestAverages:
    @both_dims
    @each_mode
    @pytest.mark.parametrize("overlap", [0.0, 0.5, "each"])
    @pytest.mark.parametrize("roi_size", [4, (12, 3, 4)])
    def test_a_supervised_network_gives_what_monai_gives(self, dims, mode, overlap, roi_size):
        overlap = (0.2, 0.5, 0.7)[:dims] if overlap == "each" else overlap
        roi_size = roi_size if isinstance(roi_size, int) else roi_size[:dims]
        segmenter, image = mixing(dims, supervised=True), images(dims, batch=2)
        expected = SlidingWindowInferer(roi_size, 2, overlap=overlap, mode=mode)(image, segmenter)
        for average in ("steps", "probabilities"):
            result = WindowAveragedInferer(roi_size, average=average, overlap=overlap, mode=mode).sample(
                image, segmenter
            )
            torch.testing.assert_close(result.probabilities, expected, atol=1e-5, rtol=1e-5)
            assert not result.variance.any() and (result.draws, result.steps) == (1, ())

    @both_dims
    @pytest.mark.parametrize("supervised", [True, False])
    def test_logarithms_give_the_geometric_mean_of_windows(self, dims, supervised):
        segmenter, image = mixing(dims, supervised=supervised), 4 * images(dims)
        inferer = WindowAveragedInferer(WINDOWS[dims], average="log_probabilities", mode="constant", overlap=0.5)
        result = inferer.sample(image, segmenter, cases=["a"]).probabilities
        grid = WindowGrid(SIZES[dims], WINDOWS[dims], overlap=0.5)
        logs, counts = torch.zeros_like(result), torch.zeros_like(result)
        for window in grid.windows:
            place = (..., *window)
            one = segmenter.sample(image[place], cases=["a"], full_size=SIZES[dims], window=window)
            logs[place] += one.probabilities.clamp(1e-5, 1).log()
            counts[place] += 1
        mean = (logs / counts).exp()
        torch.testing.assert_close(result, mean / mean.sum(dim=1, keepdim=True))
        arithmetic = WindowAveragedInferer(WINDOWS[dims], average="probabilities", mode="constant", overlap=0.5)
        assert not torch.allclose(arithmetic.sample(image, segmenter, cases=["a"]).probabilities, result, atol=1e-3)

    @both_dims
    @each_mode
    def test_probabilities_are_the_mean_over_windows_that_were_sampled_alone(self, dims, mode):
        segmenter, image, case = mixing(dims, draws=3), images(dims), {"cases": ["a"]}
        result = WindowAveragedInferer(WINDOWS[dims], average="probabilities", mode=mode, overlap=0.5).sample(
            image, segmenter, **case
        )

        def sample(windows: torch.Tensor, coordinates: Any) -> torch.Tensor:
            return segmenter.sample(windows, full_size=SIZES[dims], window=coordinates[0][2:], **case).probabilities

        monai = SlidingWindowInferer(WINDOWS[dims], 1, overlap=0.5, mode=mode, with_coord=True)
        torch.testing.assert_close(result.probabilities, monai(image, sample))

    @each_average
    def test_the_variance_is_that_of_the_draws_that_windows_give_together(self, average):
        def draw(first: int, number: int) -> Segmentation:
            segmenter = mixing(2, draws=number)
            return WindowAveragedInferer(WINDOWS[2], average=average).sample(images(), segmenter, cases=["a"])

        one, two = draw(0, 1).probabilities, draw(0, 2)
        second = 2 * two.probabilities - one
        variance = torch.stack([one, second]).var(dim=0).sum(dim=1, keepdim=True) / 2
        torch.testing.assert_close(two.variance, variance, atol=1e-5, rtol=1e-4)
        assert two.variance.max() > 1e-3

    def test_probabilities_sum_to_one(self):
        for average in ("steps", "probabilities", "log_probabilities"):
            result = WindowAveragedInferer(WINDOWS[3], average=average).sample(images(3), mixing(3)).probabilities
            torch.testing.assert_close(result.sum(dim=1), torch.ones(1, *SIZES[3]))


def _least(image: torch.Tensor, segmenter: DiffusionSegmenter, options: dict[str, Any]) -> int:
    """The least budget that is not refused, in bytes."""
    low, high = 1, 2**24
    with mock.patch.object(window_averaged, "WindowSampler"):  # planning is enough
        while low < high:
            middle = (low + high) // 2
            try:
                WindowAveragedInferer(**options, memory_budget=middle).sample(image, segmenter, cases=["a"])
            except SpecError:
                low = middle + 1
            else:
                high = middle
    return low
