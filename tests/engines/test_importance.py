"""Time steps drawn where the loss is large, without bias."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from medsegdiff.engines.importance import ImportanceTimes, UniformTimes, build_time_sampler
from medsegdiff.errors import SpecError

Loss = Callable[[torch.Tensor], torch.Tensor]
T = 1001
shapes = pytest.mark.parametrize(("num_times", "bins"), [(1001, 20), (1000, 20), (37, 5), (7, 20), (1, 20), (50, 1)])


def rising(t: torch.Tensor) -> torch.Tensor:
    """A loss that grows with t by a factor of eleven."""
    return 0.1 + (t.double() / T) ** 2


def train(sampler: ImportanceTimes, loss: Loss, samples: int, batch: int = 2) -> None:
    for _ in range(samples // batch):
        t, _ = sampler.sample(torch.rand(batch))
        sampler.update(t, loss(t))


def every_time(sampler: ImportanceTimes, loss: Loss) -> None:
    t = torch.arange(sampler.num_times)
    sampler.update(t, loss(t))


def grid(points: int) -> torch.Tensor:
    """Midpoints of the unit interval: the mean over them is the integral over u."""
    return (torch.arange(points, dtype=torch.float64) + 0.5) / points


def bin_of(sampler: ImportanceTimes, t: torch.Tensor) -> torch.Tensor:
    edges = torch.tensor([b * sampler.num_times // sampler.bins for b in range(sampler.bins + 1)])
    return torch.searchsorted(edges, t, right=True) - 1


def test_uniform_times_are_all_as_likely_and_weigh_one():
    sampler = UniformTimes(8)
    t, weights = sampler.sample(grid(800))
    assert torch.equal(t.bincount(), torch.full((8,), 100))
    assert (weights == 1).all()
    assert sampler.state_dict() == {}
    assert UniformTimes(5).sample(torch.tensor([1.0]))[0].item() == 4


@shapes
def test_before_any_loss_all_times_are_as_likely(num_times, bins):
    sampler = ImportanceTimes(num_times, bins=bins)
    expected = torch.full((num_times,), 1 / num_times, dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities, expected)
    _, weights = sampler.sample(torch.rand(50))
    torch.testing.assert_close(weights, torch.ones(50))


@shapes
@pytest.mark.parametrize("power", ["mean", "root_mean_square"])
def test_probabilities_are_positive_and_sum_to_one(num_times, bins, power):
    sampler = ImportanceTimes(num_times, bins=bins, power=power)
    train(sampler, lambda t: 5 * t.double() / num_times, 60)
    p = sampler.probabilities
    assert p.shape == (num_times,)
    assert p.min() > 0
    assert p.sum().item() == pytest.approx(1.0)


@shapes
def test_times_are_drawn_with_the_probabilities_that_are_told(num_times, bins):
    sampler = ImportanceTimes(num_times, bins=bins)
    train(sampler, rising, 100)
    points = 400_000
    t, weights = sampler.sample(grid(points))
    drawn = t.bincount(minlength=num_times).double() / points
    torch.testing.assert_close(drawn, sampler.probabilities, atol=3 / points, rtol=0)
    torch.testing.assert_close(weights, 1 / (num_times * sampler.probabilities[t]), atol=1e-9, rtol=1e-6)


@shapes
@pytest.mark.parametrize("power", ["mean", "root_mean_square"])
def test_weighted_losses_have_the_mean_over_uniform_times(num_times, bins, power):
    sampler = ImportanceTimes(num_times, bins=bins, power=power)
    train(sampler, rising, 100)
    other = torch.rand(num_times, dtype=torch.float64)  # a loss that it has not learnt from
    t, weights = sampler.sample(grid(400_000))
    assert (weights * other[t]).mean().item() == pytest.approx(other.mean().item(), rel=2e-3)
    assert (weights * rising(t)).mean().item() == pytest.approx(rising(torch.arange(num_times)).mean().item(), rel=2e-3)


def test_times_are_far_from_uniform_after_300_samples():
    sampler = ImportanceTimes(T)
    train(sampler, rising, 300)
    p = sampler.probabilities * T
    assert p[900:].mean() > 1.8
    assert p[:300].mean() < 0.5
    # In proportion to the loss, which is about 0.9 and 0.1 there.
    assert 4 < (p[900:].mean() / p[:200].mean()).item() < 12


def test_noisy_losses_are_averaged():
    sampler = ImportanceTimes(T)
    train(sampler, lambda t: rising(t) * 2 * torch.rand(len(t)), 300)
    p = sampler.probabilities * T
    assert p[900:].mean() > 1.5 > 0.6 > p[:300].mean()


@pytest.mark.parametrize(("power", "expected"), [("mean", [1.0, 3.0]), ("root_mean_square", [5**0.5, 3.0])])
def test_probabilities_are_in_proportion_to_the_mean_or_the_root_mean_square(power, expected):
    """Two bins, the first with losses 0, 2, 1, 3, … whose running mean and mean square are known for no decay."""
    sampler = ImportanceTimes(10, bins=2, power=power, uniform_share=0.01, decay=0.999999)
    for loss in (0.0, 2.0, 3.0, -1.0) if power == "mean" else (1.0, 3.0):
        sampler.update(torch.tensor([1, 7]), torch.tensor([loss, 3.0]))
    share = torch.tensor(expected, dtype=torch.float64)
    learned = (share / share.sum()).repeat_interleave(5) / 5
    torch.testing.assert_close(sampler.probabilities, 0.99 * learned + 0.01 / 10, atol=1e-6, rtol=0)


def test_the_running_mean_forgets_as_its_decay_says():
    sampler = ImportanceTimes(2, bins=2, decay=0.5, uniform_share=1e-9)
    for first, second in ((8.0, 1.0), (2.0, 1.0)):
        sampler.update(torch.tensor([0, 1]), torch.tensor([first, second]))
    mean = (0.25 * 8 + 0.5 * 2) / 0.75
    assert (sampler.probabilities[0] / sampler.probabilities[1]).item() == pytest.approx(mean, rel=1e-6)


def test_a_bin_not_visited_yet_stands_at_the_mean_of_the_others():
    sampler = ImportanceTimes(3, bins=3, uniform_share=1e-9)
    sampler.update(torch.tensor([0, 2]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(sampler.probabilities, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6)


def test_losses_of_zero_leave_the_times_uniform():
    sampler = ImportanceTimes(10, bins=5)
    every_time(sampler, lambda t: torch.zeros(len(t)))
    torch.testing.assert_close(sampler.probabilities, torch.full((10,), 0.1, dtype=torch.float64))


def test_bins_that_do_not_divide_t_share_by_their_width():
    sampler = ImportanceTimes(7, bins=3)
    every_time(sampler, lambda t: torch.ones(len(t)))
    torch.testing.assert_close(sampler.probabilities, torch.full((7,), 1 / 7, dtype=torch.float64))
    assert bin_of(sampler, torch.arange(7)).tolist() == [0, 0, 1, 1, 2, 2, 2]


def test_the_release_multiplies_by_the_probability():
    sampler = ImportanceTimes(T, weighting="release")
    train(sampler, rising, 100)
    t, weights = sampler.sample(grid(1000))
    torch.testing.assert_close(weights, T * sampler.probabilities[t], atol=1e-9, rtol=1e-6)


def test_times_stay_in_range_at_the_ends_of_the_unit_interval():
    sampler = ImportanceTimes(7, bins=3)
    train(sampler, rising, 20)
    t, weights = sampler.sample(torch.tensor([0.0, 1.0 - 2**-24, 1.0]))
    assert t.tolist() == [0, 6, 6]
    assert torch.isfinite(weights).all()
    assert weights.dtype == torch.float32 and t.dtype == torch.int64


def test_a_resumed_sampler_goes_on_as_the_first():
    first, second = ImportanceTimes(T), ImportanceTimes(T)
    train(first, rising, 50)
    kept = first.state_dict()
    second.load_state_dict(kept)
    train(first, rising, 10)
    assert torch.equal(kept["sums"], second.state_dict()["sums"])  # the state is a copy
    u = torch.rand(20)
    third = ImportanceTimes(T)
    third.load_state_dict(first.state_dict())
    for ours, theirs in zip(first.sample(u), third.sample(u), strict=True):
        assert torch.equal(ours, theirs)


def test_a_history_of_other_bins_is_refused():
    with pytest.raises(SpecError, match="importance history has 20 bins, this run 10; use as many"):
        ImportanceTimes(T, bins=10).load_state_dict(ImportanceTimes(T).state_dict())


@pytest.mark.parametrize(("state", "other"), [(UniformTimes, ImportanceTimes), (ImportanceTimes, UniformTimes)])
def test_a_state_of_another_kind_is_refused(state, other):
    with pytest.raises(SpecError, match=r"history of importance, .* resume with the time_sampler of the first run"):
        other(T).load_state_dict(state(T).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": "max"}, "power 'max' does not exist; use one of mean, root_mean_square"),
        ({"weighting": "none"}, "weighting 'none' does not exist; use one of unbiased, release"),
        ({"bins": 0}, "got bins=0"),
        ({"decay": 1.0}, "decay=1.0.*0 <= decay < 1"),
        ({"uniform_share": 0.0}, "uniform_share=0.0.*0 < uniform_share <= 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        ImportanceTimes(T, **options)


def test_time_samplers_are_found_by_name():
    assert isinstance(build_time_sampler("uniform", 5), UniformTimes)
    sampler = build_time_sampler("importance", 5, bins=2)
    assert isinstance(sampler, ImportanceTimes) and sampler.bins == 2
    with pytest.raises(SpecError, match="time sampler 'loss' does not exist; use uniform or importance"):
        build_time_sampler("loss", 5)
    with pytest.raises(SpecError, match="num_times is 0; a time sampler needs at least 1"):
        build_time_sampler("uniform", 0)
    with pytest.raises(SpecError, match="time sampler 'importance' has no option 'bin'"):
        build_time_sampler("importance", 5, bin=2)
    with pytest.raises(SpecError, match="time sampler 'uniform' has no option 'bins'"):
        build_time_sampler("uniform", 5, bins=2)
