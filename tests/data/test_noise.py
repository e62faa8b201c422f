"""Keyed randomness: what it depends on, and what it does not."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from medsegdiff.data.noise import SamplingNoise, TrainingNoise, case_names, key_to_seed, keyed_generator

SHAPE = (2, 6, 5)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_a_seed_is_the_same_in_every_process_and_differs_with_every_part():
    seeds = {key_to_seed(*key) for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a"), (0, "a0")]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Python's own hash of a string changes from process to process; this one must stay as it is for ever, since
    # published results are repeated with it.
    assert key_to_seed(0, "hippocampus_001", 0, "x_T") == 838050044045067090


def test_parts_of_a_key_are_kept_apart():
    assert key_to_seed("ab", "c") != key_to_seed("a", "bc")


def test_a_generator_is_keyed():
    one, same, other = (keyed_generator(*key) for key in [(0, "a"), (0, "a"), (0, "b")])
    numbers = [torch.rand(4, generator=g) for g in (one, same, other)]
    assert torch.equal(numbers[0], numbers[1])
    assert not torch.equal(numbers[0], numbers[2])


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 5, 4)])
def test_sampling_noise_depends_on_every_part_of_its_key(shape):
    def field(seed: int = 0, case: str = "a", draw: int = 0, step: int = 0) -> torch.Tensor:
        return SamplingNoise(seed, [case], shape, draws=[draw])(step)

    first = field()
    assert first.shape == (1, *shape)
    assert torch.equal(first, field())
    for change in ({"seed": 1}, {"case": "b"}, {"draw": 1}, {"step": 1}):
        assert not torch.equal(first, field(**change)), change
    assert not torch.equal(first, SamplingNoise(0, ["a"], shape).x_T())


def test_the_start_can_be_asked_for_at_any_time():
    noise = SamplingNoise(0, ["a"], SHAPE)
    before, step, after = noise.x_T(), noise(3), noise.x_T()
    assert torch.equal(before, after)
    assert torch.equal(step, noise(3))


def test_draws_of_an_image_stand_side_by_side():
    together = SamplingNoise(0, ["a", "b"], SHAPE, draws=[0, 2])(1)
    alone = [SamplingNoise(0, [case], SHAPE, draws=[draw])(1) for case in "ab" for draw in (0, 2)]
    assert torch.equal(together, torch.cat(alone))


def test_a_window_is_the_crop_of_the_full_noise():
    window = (slice(1, 4), slice(2, 5))
    full, part = SamplingNoise(0, ["a", "b"], SHAPE), SamplingNoise(0, ["a", "b"], SHAPE, window=window)
    assert torch.equal(part.x_T(), full.x_T()[(..., *window)])
    assert torch.equal(part(2), full(2)[(..., *window)])


def test_sampling_noise_is_standard_normal_and_independent():
    noise = SamplingNoise(0, ["a"], (1, 100, 100), draws=[0, 1])
    start, step = noise.x_T(), noise(0)
    for field in (*start, *step):
        assert abs(field.mean().item()) < 0.05
        assert abs(field.var().item() - 1) < 0.06
    assert abs(correlation(start[0], start[1])) < 0.05
    assert abs(correlation(start[0], step[0])) < 0.05


def test_training_noise_of_two_processes_is_that_of_one():
    one = TrainingNoise(0, 3, ["a", "b", "c"])
    parts = [TrainingNoise(0, 3, ["a"]), TrainingNoise(0, 3, ["b", "c"])]
    assert len(one) == 3
    for draw in (lambda n: n.uniform(), lambda n: n.normal(SHAPE), lambda n: n.normal(SHAPE)):
        assert torch.equal(draw(one), torch.cat([draw(part) for part in parts]))


def test_training_noise_depends_on_seed_epoch_and_sample():
    first = TrainingNoise(0, 1, ["a"]).normal(SHAPE)
    assert torch.equal(first, TrainingNoise(0, 1, ["a"]).normal(SHAPE))
    for key in [(1, 1, ["a"]), (0, 2, ["a"]), (0, 1, ["b"])]:
        assert not torch.equal(first, TrainingNoise(*key).normal(SHAPE))


def test_consecutive_training_noises_are_independent_and_standard_normal():
    noise = TrainingNoise(0, 1, ["a", "b"])
    first, second = noise.normal((1, 80, 80)), noise.normal((1, 80, 80))
    for field in (first, second):
        assert abs(field.mean().item()) < 0.05
        assert abs(field.var().item() - 1) < 0.06
    assert abs(correlation(first, second)) < 0.05
    assert abs(correlation(first[0], first[1])) < 0.06


def test_uniform_numbers_fill_the_unit_interval():
    u = TrainingNoise(0, 1, [str(n) for n in range(2000)]).uniform()
    assert u.shape == (2000,)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean().item() - 0.5) < 0.03
    assert torch.histc(u, bins=10, min=0, max=1).min() > 140


def test_the_global_random_state_plays_no_part():
    state = torch.get_rng_state()
    first = SamplingNoise(0, ["a"], SHAPE).x_T(), TrainingNoise(0, 0, ["a"]).normal(SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    second = SamplingNoise(0, ["a"], SHAPE).x_T(), TrainingNoise(0, 0, ["a"]).normal(SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["/data/case_1.nii.gz", "/data/case_2.nii"], ["case_1", "case_2"]),
        (["a/scan.mha", "b.dcm"], ["scan", "b.dcm"]),
    ],
)
def test_a_case_is_named_by_its_file(files, names):
    assert case_names(MetaTensor(torch.zeros(2, 1, 3, 3), meta={"filename_or_obj": files})) == names


def test_a_single_file_name_is_taken_for_a_batch_of_one():
    image = MetaTensor(torch.zeros(1, 1, 3, 3), meta={"filename_or_obj": "/data/case_1.nii.gz"})
    assert case_names(image) == ["case_1"]


def test_without_a_file_the_content_names_the_case():
    image = torch.randn(2, 1, 4, 4)
    names = case_names(image)
    assert names[0] != names[1]
    assert case_names(image.flip(0)) == names[::-1]
    assert case_names(MetaTensor(image)) == names
    # One name for a whole batch says nothing about which window is which.
    assert case_names(MetaTensor(image, meta={"filename_or_obj": "/data/case_1.nii.gz"})) == names
    assert case_names(image.to(torch.bfloat16)[:1]) == case_names(image.to(torch.bfloat16).float()[:1])
