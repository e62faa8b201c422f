"""Pairs of neighbouring masks against the moments of forward process and posterior."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.data.noise import TrainingNoise
from medsegdiff.engines.noisy_pairs import NoisyPair, fake_x_prev, real_pair
from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers import END, cdal_schedule

SCHEDULE = cdal_schedule(4)
TIMES = torch.arange(4)
SIZES = {2: (96, 64), 3: (24, 16, 16)}
TOLERANCE = 4 / 6144**0.5  # four standard errors of a mean over one mask
both_dims = pytest.mark.parametrize("dims", [2, 3])
both_kinds = pytest.mark.parametrize("kind", ["markov", "algorithm_1"])


def noise() -> TrainingNoise:
    return TrainingNoise(0, 0, list("abcd"))


def masks(dims: int) -> torch.Tensor:
    return torch.randint(2, (4, 1, *SIZES[dims])).float() * 2 - 1


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def assert_of_posterior(x_prev: torch.Tensor, x_0: torch.Tensor, pair: NoisyPair) -> None:
    """x_prev has the mean and the variance of q(x_prev | x_t, x_0), and nothing left that x_t could explain."""
    assert torch.equal(x_prev[0], x_0[0])  # at t = 0 it is the clean end
    for t in (1, 2, 3):
        posterior = SCHEDULE.posterior(t, t - 1)
        rest = x_prev[t] - posterior.x_0 * x_0[t] - posterior.x_t * pair.x_t[t]
        deviation = posterior.variance**0.5
        assert abs(rest.mean().item()) < TOLERANCE * deviation
        assert rest.std().item() == pytest.approx(deviation, rel=0.05)
        assert abs(correlation(rest, pair.x_t[t])) < TOLERANCE
        assert abs(correlation(rest, x_0[t])) < TOLERANCE


@both_dims
@both_kinds
def test_both_masks_have_the_marginals_of_the_forward_process(dims, kind):
    x_0 = masks(dims)
    pair = real_pair(SCHEDULE, x_0, TIMES, noise(), kind)
    for x, times in ((pair.x_prev, TIMES - 1), (pair.x_t, TIMES)):
        for t in range(4):
            abar = SCHEDULE.alpha_cumprod_at(int(times[t]))
            rest = x[t] - abar**0.5 * x_0[t]
            assert abs(rest.mean().item()) < TOLERANCE * (1 - abar) ** 0.5 + 1e-6
            assert rest.std().item() == pytest.approx((1 - abar) ** 0.5, rel=0.05, abs=1e-6)
    torch.testing.assert_close(pair.x_prev, SCHEDULE.add_noise(x_0, pair.noise, TIMES - 1))


@both_dims
def test_a_markov_pair_is_one_forward_step_apart(dims):
    pair = real_pair(SCHEDULE, masks(dims), TIMES, noise())
    for t in range(4):
        beta = SCHEDULE.betas[t].item()
        step = (pair.x_t[t] - (1 - beta) ** 0.5 * pair.x_prev[t]) / beta**0.5
        assert step.std().item() == pytest.approx(1, rel=0.05)
        assert abs(correlation(step, pair.x_prev[t])) < TOLERANCE
        assert abs(correlation(step, pair.noise[t])) < TOLERANCE


@both_dims
def test_a_markov_pair_follows_the_posterior(dims):
    x_0 = masks(dims)
    pair = real_pair(SCHEDULE, x_0, TIMES, noise())
    assert_of_posterior(pair.x_prev, x_0, pair)


@both_dims
def test_with_an_oracle_fake_pairs_follow_the_posterior_too(dims):
    """So that a discriminator cannot tell them from real ones."""
    x_0, source = masks(dims), noise()
    pair = real_pair(SCHEDULE, x_0, TIMES, source)
    fake = fake_x_prev(SCHEDULE, x_0, pair, source)
    assert_of_posterior(fake, x_0, pair)
    for t in (1, 2, 3):
        assert abs(correlation(fake[t] - pair.x_prev[t], pair.x_t[t])) < 2 * TOLERANCE
    assert not torch.equal(fake[1:], pair.x_prev[1:])


@both_dims
def test_the_fake_moves_with_the_prediction(dims):
    x_0 = masks(dims)
    pair = real_pair(SCHEDULE, x_0, TIMES, noise())
    one, other = (fake_x_prev(SCHEDULE, guess, pair, noise()) for guess in (x_0, 0.5 * x_0))
    for t in range(4):
        torch.testing.assert_close(one[t] - other[t], SCHEDULE.posterior(t, t - 1).x_0 * 0.5 * x_0[t])


@both_dims
def test_algorithm_1_has_one_noise_for_all(dims):
    x_0, guess, source = masks(dims), 0.3 * masks(dims), noise()
    pair = real_pair(SCHEDULE, x_0, TIMES, source, "algorithm_1")
    torch.testing.assert_close(pair.x_t, SCHEDULE.add_noise(x_0, pair.noise, TIMES))
    fake = fake_x_prev(SCHEDULE, guess, pair, source, "algorithm_1")
    torch.testing.assert_close(fake, SCHEDULE.add_noise(guess, pair.noise, TIMES - 1))


@both_kinds
def test_at_the_last_step_before_the_clean_end_the_truth_is_shown(kind):
    x_0, t = masks(2), torch.zeros(4, dtype=torch.long)
    pair = real_pair(SCHEDULE, x_0, t, noise(), kind)
    assert t[0] - 1 == END
    assert torch.equal(pair.x_prev, x_0)
    for fake_kind in ("posterior", "algorithm_1"):
        assert torch.equal(fake_x_prev(SCHEDULE, -x_0, pair, noise(), fake_kind), -x_0)


def test_a_pair_does_not_depend_on_who_else_is_in_the_batch():
    x_0 = masks(2)
    together = real_pair(SCHEDULE, x_0, TIMES, noise())
    alone = real_pair(SCHEDULE, x_0[2:3], TIMES[2:3], TrainingNoise(0, 0, ["c"]))
    torch.testing.assert_close(together.x_t[2:3], alone.x_t)


def test_kinds_that_do_not_exist_are_refused():
    x_0 = masks(2)
    with pytest.raises(SpecError, match="real_pair 'posterior' does not exist; use one of markov, algorithm_1"):
        real_pair(SCHEDULE, x_0, TIMES, noise(), "posterior")
    pair = real_pair(SCHEDULE, x_0, TIMES, noise())
    with pytest.raises(SpecError, match="fake_pair 'markov' does not exist; use one of posterior, algorithm_1"):
        fake_x_prev(SCHEDULE, x_0, pair, noise(), "markov")
