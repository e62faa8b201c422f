"""Ensembles and 2-D networks on volumes, by windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.slicewise import SlicewiseSegmenter
from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.inferers.window_jobs import WindowJob, segment_by_windows
from medsegdiff.networks.segmenter import Segmentation

SIZE, WINDOW = (9, 8, 6), (4, 5, 3)
each_average = pytest.mark.parametrize("average", ["steps", "probabilities"])


def volume(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(1))


def same(one: Segmentation, other: Segmentation) -> None:
    torch.testing.assert_close(one.probabilities, other.probabilities)
    torch.testing.assert_close(one.variance, other.variance)
    assert one.draws == other.draws


class TestEnsembles:
    @each_average
    def test_every_member_goes_by_windows_and_then_they_are_pooled(self, make_segmenter, average):
        members = [make_segmenter(draws=3), make_segmenter(supervised=True, sharpness=2.0)]
        inferer, image = WindowAveragedInferer(WINDOW, average=average, overlap=0.5), volume(2)
        result = inferer.sample(image, EnsembleSegmenter(members), cases=["a", "b"])
        parts = [inferer.sample(image, member, cases=["a", "b"]) for member in members]
        mean = (parts[0].probabilities + parts[1].probabilities) / 2
        between = sum((part.probabilities - mean) ** 2 for part in parts).sum(dim=1, keepdim=True) / 4
        torch.testing.assert_close(result.probabilities, mean)
        torch.testing.assert_close(result.variance, (parts[0].variance + parts[1].variance) / 2 + between)
        assert result.draws == 4

    def test_label_maps_of_draws_are_fused_on_the_grid_of_the_image(self, make_segmenter):
        segmenter, image = make_segmenter(draws=5, draws_per_batch=2, sharpness=0.2), volume(2)
        ensemble = EnsembleSegmenter([segmenter], fusion="majority", fuse_draws=True)
        for roi_size in (WINDOW, (12, 3, 8)):
            drawn: dict[int, torch.Tensor] = {}

            def keep(seen: Any, drawn: dict[int, torch.Tensor] = drawn) -> None:
                labels = seen.codec.probabilities(seen.step.x_0).argmax(dim=1).unflatten(0, (2, -1))
                drawn.update(zip(seen.draws, labels.unbind(1), strict=True))

            inferer = WindowAveragedInferer(roi_size, overlap=0.5)
            inferer.sample(image, segmenter, cases=["a", "b"], callback=keep)
            votes = torch.stack([torch.nn.functional.one_hot(drawn[k], 3).float() for k in range(5)]).mean(dim=0)
            result = inferer.sample(image, ensemble, cases=["a", "b"]).probabilities
            torch.testing.assert_close(
                result, votes.movedim(-1, 1), atol=2e-3, rtol=0
            )  # ties are dealt out by the mean

    def test_what_members_leave_behind_counts_as_memory(self, make_segmenter):
        held = []

        def segment(segmenter: Any, job: WindowJob) -> Segmentation:
            held.append(job.held_maps)
            return segmenter.sample(job.image, cases=job.names)

        inner = EnsembleSegmenter([make_segmenter(), make_segmenter()])
        job = WindowJob(volume(), ["a"], [tuple(slice(0, n) for n in SIZE)], WINDOW, 0.5, 1, held_maps=2)
        segment_by_windows(inner, job, segment)
        assert held == [2 + 2 * 3 + 2] * 2  # mean and fused maps of three classes, variance within and between


class TestSlices:
    @each_average
    @pytest.mark.parametrize("axis", [-1, -2, -3])
    @pytest.mark.parametrize("slices_per_batch", [2, 32])
    def test_every_slice_goes_by_windows_as_an_image_of_its_own(self, make_segmenter, average, axis, slices_per_batch):
        segmenter, image = make_segmenter(spatial_dims=2, draws=2), volume(2)
        in_plane = [[n for place, n in enumerate(values) if place != axis % 3] for values in (WINDOW, (0.1, 0.5, 0.3))]
        alone = WindowAveragedInferer(in_plane[0], average=average, overlap=in_plane[1])
        inferer = WindowAveragedInferer(WINDOW, average=average, overlap=(0.1, 0.5, 0.3))
        network = SlicewiseSegmenter(segmenter, axis=axis, slices_per_batch=slices_per_batch)
        result = inferer.sample(image, network, cases=["a", "b"])
        for b, case in enumerate("ab"):
            for k in range(SIZE[axis]):
                one = alone.sample(image[b : b + 1].select(axis, k), segmenter, cases=[f"{case}/{k}"])
                torch.testing.assert_close(result.probabilities[b].select(axis, k), one.probabilities[0])
                torch.testing.assert_close(result.variance[b].select(axis, k), one.variance[0])

    def test_as_many_slices_go_at_once_as_go_without_windows(self, make_segmenter):
        segmenter, seen = make_segmenter(spatial_dims=2), []
        segmenter.encode = lambda windows: seen.append(len(windows)) or windows
        WindowAveragedInferer(-1, sw_batch_size=1).sample(volume(), SlicewiseSegmenter(segmenter, slices_per_batch=3))
        assert seen == [3, 3] * 3

    def test_one_number_serves_all_axes(self, make_segmenter):
        network = SlicewiseSegmenter(make_segmenter(spatial_dims=2))
        one, each = (
            WindowAveragedInferer(roi_size, overlap=overlap).sample(volume(), network, cases=["a"])
            for roi_size, overlap in ((4, 0.5), ((4, 4, 4), (0.5, 0.5, 0.5)))
        )
        same(one, each)

    def test_an_ensemble_may_stand_inside_or_outside(self, make_segmenter):
        members = [make_segmenter(spatial_dims=2, draws=2), make_segmenter(supervised=True, spatial_dims=2)]
        inferer = WindowAveragedInferer(WINDOW)
        inside = inferer.sample(volume(), SlicewiseSegmenter(EnsembleSegmenter(members)), cases=["a"])
        outside = inferer.sample(volume(), EnsembleSegmenter([SlicewiseSegmenter(m) for m in members]), cases=["a"])
        same(inside, outside)

    @pytest.mark.parametrize("axis", [-1, -3])
    def test_slices_beyond_the_foreground_are_skipped(self, make_segmenter, axis):
        image = torch.zeros(1, 1, 8, 8, 8)
        image[..., 2:4, 0:3, 5:7] = torch.randn(2, 3, 2)
        segmenter, seen = make_segmenter(spatial_dims=2, sharpness=-3.0), []
        segmenter.encode = lambda windows: seen.append(len(windows)) or windows
        network = SlicewiseSegmenter(segmenter, axis=axis, slices_per_batch=1)
        inferer = WindowAveragedInferer(4, overlap=0, sw_batch_size=1, skip="foreground")
        result = inferer.sample(image, network, cases=["a"], callback=lambda step: seen.append(step.step.x_0.shape[0]))
        assert seen == [1, 1, 8] * 3  # two slices of one window, then all slices together; three steps
        background = result.probabilities[:, 0] == 1
        expected = torch.ones(8, 8, 8, dtype=torch.bool)
        expected[(2, 3) if axis == -3 else slice(0, 4), 0:4, (5, 6) if axis == -1 else slice(4, 8)] = False
        assert torch.equal(background[0], expected)
