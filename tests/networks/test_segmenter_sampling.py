"""The segmenter's draws: shared condition, keyed noise, moments, callbacks and windows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from medsegdiff.errors import SpecError
from medsegdiff.networks.segmenter import DiffusionSegmenter, SegmenterStep

both_dims = pytest.mark.parametrize("dims", [2, 3])
each_sampler = pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver++"])
SIZE = (6, 5, 4)
NAMES = ["left", "right"]


def images(dims: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *SIZE[:dims])


def draws_of(segmenter: DiffusionSegmenter, image: torch.Tensor, **options: Any) -> torch.Tensor:
    """The probabilities of every single draw, (B, draws, K, *S), taken from the last step of each group."""
    groups: list[torch.Tensor] = []

    def keep(seen: SegmenterStep) -> None:
        if seen.step.t_prev < 0:
            probabilities = seen.codec.probabilities(seen.step.x_0)
            groups.append(probabilities.unflatten(0, (len(image), len(seen.draws))))

    segmenter.sample(image, callback=keep, **options)
    return torch.cat(groups, dim=1)


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("draws", "per_batch", "groups"), [(1, 4, [1]), (4, 4, [4]), (5, 2, [2, 2, 1]), (3, 1, [1, 1, 1])]
)
def test_the_image_is_encoded_once_and_batches_stay_bounded(make_segmenter, draws, per_batch, groups):
    segmenter = make_segmenter(share=0.5, steps=3, draws=draws, draws_per_batch=per_batch)
    segmenter(images(2))
    assert segmenter.denoiser.encoded == 1
    assert segmenter.denoiser.batches == [2 * n for n in groups for _ in range(3)]


@both_dims
@each_sampler
def test_draws_in_a_batch_equal_draws_in_a_loop(make_segmenter, dims, sampler):
    segmenter = make_segmenter(share=0.8, sampler=sampler, steps=4, draws=5)
    image = images(dims)
    results = []
    for per_batch in (1, 2, 5):
        segmenter.set_sampling(draws_per_batch=per_batch)
        results.append(segmenter.sample(image))
    for other in results[1:]:
        assert_same(results[0].probabilities, other.probabilities)
        assert_same(results[0].variance, other.variance)


@pytest.mark.parametrize("named", [True, False])
def test_a_draw_does_not_depend_on_how_many_there_are_nor_on_its_neighbours(make_segmenter, named):
    segmenter = make_segmenter(share=0.8, steps=3, draws=5, draws_per_batch=3)
    image = images(2)

    def draws(order: list[int]) -> torch.Tensor:
        return draws_of(segmenter, image[order], cases=[NAMES[n] for n in order] if named else None)

    together = draws([0, 1])
    assert together.std(dim=1).max() > 0.01
    assert_same(draws([1, 0]), together.flip(0))
    assert_same(draws([1]), together[1:])
    segmenter.set_sampling(draws=2)
    assert_same(draws([0, 1]), together[:, :2])


@both_dims
def test_moments_are_those_of_the_single_draws(make_segmenter, dims):
    segmenter = make_segmenter(share=1.0, steps=3, draws=6, draws_per_batch=4)
    image = images(dims)
    single = draws_of(segmenter, image, cases=NAMES)
    assert single.shape == (2, 6, 3, *SIZE[:dims])
    result = segmenter.sample(image, cases=NAMES)
    assert_same(result.probabilities, single.mean(dim=1))
    assert_same(result.variance, torch.var(single, dim=1).sum(dim=1, keepdim=True) / 2)
    assert result.draws == 6
    assert result.variance.max() > 1e-4


def test_a_single_draw_has_no_variance(make_segmenter):
    assert not make_segmenter(share=1.0).sample(images(2)).variance.any()


def test_the_seed_and_the_name_choose_the_noise(make_segmenter):
    segmenter = make_segmenter(share=1.0)
    image = images(2, batch=1)

    def result(name: str) -> torch.Tensor:
        return segmenter.sample(image, cases=[name]).probabilities

    first = result("left")
    assert torch.equal(first, result("left"))
    assert not torch.equal(first, result("right"))
    segmenter.set_sampling(seed=1)
    assert not torch.equal(first, result("left"))
    segmenter.set_sampling(seed=0)
    assert torch.equal(first, result("left"))


def test_the_global_random_state_is_neither_read_nor_changed(make_segmenter):
    segmenter = make_segmenter(share=1.0)
    image = images(2)
    state = torch.get_rng_state()
    first = segmenter(image)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(segmenter(image), first)


def test_a_file_name_names_the_case(make_segmenter):
    segmenter = make_segmenter(share=1.0)
    image = images(2)
    meta = MetaTensor(image.clone(), meta={"filename_or_obj": ["/a/left.nii.gz", "/b/right.nii"]})
    assert_same(segmenter(meta), segmenter.sample(image, cases=NAMES).probabilities)


@each_sampler
def test_a_callback_sees_every_step_of_every_group(make_segmenter, sampler):
    segmenter = make_segmenter(share=0.5, sampler=sampler, steps=4, draws=3, draws_per_batch=2)
    seen: list[tuple[list[int], int, int]] = []

    def see(step: SegmenterStep) -> None:
        assert step.step.x_t.shape == step.step.x_0.shape == (2 * len(step.draws), 3, *SIZE[:2])
        seen.append((list(step.draws), step.step.t, step.step.t_prev))

    segmenter.sample(images(2), callback=see)
    times = segmenter.schedule.timesteps(4)
    pairs = list(zip(times, [*times[1:], -1], strict=True))
    assert seen == [(group, *pair) for group in ([0, 1], [2]) for pair in pairs]
    assert segmenter.denoiser.times == times * 2


@each_sampler
def test_a_callback_that_returns_true_stops_with_that_prediction(make_segmenter, sampler):
    segmenter = make_segmenter(share=0.5, sampler=sampler, steps=6)
    image = images(2)
    kept = []

    def stop_at_second(seen: SegmenterStep) -> bool:
        kept.append(seen.codec.probabilities(seen.step.x_0))
        return seen.step.index == 1

    result = segmenter.sample(image, callback=stop_at_second)
    assert len(segmenter.denoiser.batches) == 2
    torch.testing.assert_close(result.probabilities, kept[1])
    assert not torch.equal(kept[0], kept[1])


@each_sampler
def test_each_step_is_told_the_prediction_of_the_one_before(make_segmenter, sampler):
    segmenter = make_segmenter(share=0.5, sampler=sampler, steps=4)
    seen = []
    segmenter.sample(images(2), callback=lambda step: seen.append(step.step.x_0) and None)
    told = segmenter.denoiser.x0_prevs
    assert told[0] is None
    for previous, prediction in zip(told[1:], seen, strict=False):
        assert torch.equal(previous, prediction)


@both_dims
def test_windows_of_an_image_see_the_crop_of_its_noise(make_segmenter, dims):
    """The oracle works voxel by voxel, so the window's result is the crop of the whole."""
    segmenter = make_segmenter(share=1.0, steps=3, draws=2)
    image = images(dims)
    whole = segmenter.sample(image, cases=NAMES)
    window = (slice(2, 5), slice(1, 4), slice(0, 3))[:dims]
    crop = (..., *window)
    part = segmenter.sample(image[crop], cases=NAMES, full_size=SIZE[:dims], window=window)
    assert_same(part.probabilities, whole.probabilities[crop])
    assert_same(part.variance, whole.variance[crop])


def test_given_noises_are_what_sampling_uses(make_segmenter):
    """An exported network takes x_T and its noises as inputs."""
    segmenter = make_segmenter(share=1.0, steps=3)
    image = images(2)
    x_T = torch.randn(2, 3, *SIZE[:2])
    noises = torch.randn(3, *x_T.shape)
    condition = segmenter.encode(image)
    first = segmenter.run_sampler(condition, x_T, lambda n: noises[n])
    assert torch.equal(first, segmenter.run_sampler(condition, x_T, lambda n: noises[n]))
    assert not torch.equal(first, segmenter.run_sampler(condition, -x_T, lambda n: noises[n]))
    assert not torch.equal(first, segmenter.run_sampler(condition, x_T, lambda n: -noises[n]))


def test_a_window_without_the_name_of_its_image_is_refused(make_segmenter):
    window = (slice(0, 4), slice(0, 4))
    with pytest.raises(SpecError, match="window without the case it is cut from; give cases"):
        make_segmenter().sample(torch.randn(1, 3, 4, 4), full_size=(6, 6), window=window)
