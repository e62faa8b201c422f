"""Sampling by windows: what may make no difference, and what must."""

from __future__ import annotations

import logging
from typing import Any
from unittest import mock

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn import functional as F

from medsegdiff.data.noise import SamplingNoise
from medsegdiff.errors import DataError, SpecError
from medsegdiff.inferers import window_averaged
from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.inferers.window_plan import WindowPlan
from medsegdiff.inferers.windows import WindowGrid
from medsegdiff.methods import METHODS, RunSpec, build_segmenter
from medsegdiff.networks.codec import OneHotCodec
from medsegdiff.networks.live_bytes import LiveBytes
from medsegdiff.networks.prediction import build_prediction
from medsegdiff.networks.schedulers import linear_schedule
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation, SegmenterStep

SIZES = {2: (10, 7), 3: (10, 7, 6)}
WINDOWS = {2: (4, 5), 3: (4, 5, 3)}
CPU = torch.device("cpu")
both_dims = pytest.mark.parametrize("dims", [2, 3])
each_average = pytest.mark.parametrize("average", ["steps", "probabilities"])
each_mode = pytest.mark.parametrize("mode", ["constant", "gaussian"])


class Mixing(nn.Module):
    """Looks at neighbours, at x_t, the time, x0_prev and a latent, and remembers what it was shown."""

    def __init__(self, dims: int, *, latent_dim: int = 2, encodes: bool = True) -> None:
        super().__init__()
        self.spatial_dims, self.image_channels, self.latent_dim = dims, 1, latent_dim
        self.encodes = encodes
        self.encoded: list[torch.Size] = []
        self.calls: list[dict[str, Any]] = []

    def blur(self, x: torch.Tensor) -> torch.Tensor:
        return (F.avg_pool2d if self.spatial_dims == 2 else F.avg_pool3d)(x, 3, stride=1, padding=1)

    def encode(self, image):
        self.encoded.append(image.shape)
        return torch.cat([image, image - self.blur(image)], dim=1) if self.encodes else image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        self.calls.append({"x_t": x_t, "t": t, "x0_prev": x0_prev, "z": z})
        first = 2 * self.blur(condition[:, :1]) + condition[:, -1:]
        logits = torch.cat([-first, first, 0.3 * first.abs()], dim=1)
        if x_t.shape[1]:
            logits = logits + self.blur(x_t) + t.view(-1, *[1] * (x_t.ndim - 1)) / 40
        if x0_prev is not None:
            logits = logits + 0.8 * self.blur(x0_prev)
        return logits if z is None else logits + 0.3 * z.mean(dim=1).view(-1, *[1] * (x_t.ndim - 1))


def mixing(dims: int = 2, *, supervised: bool = False, latent_dim: int = 2, encodes: bool = True, **options: Any):
    return DiffusionSegmenter(
        Mixing(dims, latent_dim=0 if supervised else latent_dim, encodes=encodes),  # type: ignore[arg-type]
        codec=OneHotCodec(3),
        prediction=build_prediction("logits"),
        schedule=None if supervised else linear_schedule(20),
        **{"steps": 4, **options},
    )


def images(dims: int = 2, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, *SIZES[dims], generator=torch.Generator().manual_seed(1))


def same(one: Segmentation, other: Segmentation, **tolerance: float) -> None:
    torch.testing.assert_close(one.probabilities, other.probabilities, **tolerance)
    torch.testing.assert_close(one.variance, other.variance, **tolerance)
    assert one.draws == other.draws


def differ(one: Segmentation, other: Segmentation) -> bool:
    return not torch.allclose(one.probabilities, other.probabilities, atol=1e-3)


def plan_of(caplog: pytest.LogCaptureFixture, inferer: WindowAveragedInferer, *args: Any, **options: Any) -> WindowPlan:
    """The plan of a sampling, from the log."""
    caplog.clear()
    inferer._logged.clear()
    with caplog.at_level(logging.INFO, logger=window_averaged.__name__):
        inferer.sample(*args, **options)
    [record] = caplog.records
    return record.args[0]


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
        torch.testing.assert_close(result.variance[0], draws.var(dim=0))

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
        torch.testing.assert_close(two.variance, torch.stack([one, second]).var(dim=0), atol=1e-5, rtol=1e-4)
        assert two.variance.max() > 1e-3

    def test_probabilities_sum_to_one(self):
        for average in ("steps", "probabilities", "log_probabilities"):
            result = WindowAveragedInferer(WINDOWS[3], average=average).sample(images(3), mixing(3)).probabilities
            torch.testing.assert_close(result.sum(dim=1), torch.ones(1, *SIZES[3]))


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
