"""The shape of the learning rate."""

from __future__ import annotations

import math

import pytest
import torch

from medsegdiff.engines.learning_rate import warmup_cosine


def rates(total_steps: int, steps: int, peak: float = 8e-4, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = warmup_cosine(optimizer, total_steps=total_steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_defaults_are_the_release_s():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8e-4)
    (fraction,) = warmup_cosine(optimizer, total_steps=10_000).lr_lambdas
    expected = {
        0: 1e-5,
        50: (1e-5 + 8e-4) / 2,
        100: 8e-4,
        (100 + 10_000) // 2: (8e-4 + 5e-5) / 2,
        10_000: 5e-5,
        20_000: 5e-5,
    }
    assert {step: 8e-4 * fraction(step) for step in expected} == pytest.approx(expected)


def test_it_rises_in_a_line_and_falls_as_half_a_cosine():
    lr = rates(100, 101, peak=1.0, warmup_steps=10, start_fraction=0.1, end_fraction=0.2)
    assert lr[:11] == pytest.approx([0.1 + 0.09 * n for n in range(11)])
    for n in range(10, 101):
        assert lr[n] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * (n - 10) / 90)) / 2)


@pytest.mark.parametrize(("total", "warmup"), [(300, 30), (40, 4), (5, 1), (1, 1)])
def test_short_runs_warm_up_over_a_tenth_of_their_steps(total, warmup):
    lr = rates(total, total + 1, peak=1.0)
    assert lr[0] == pytest.approx(1 / 80)
    assert lr.index(max(lr)) == min(warmup, total)
    assert lr[warmup] == pytest.approx(1.0)
    if total > warmup:
        assert lr[total] == pytest.approx(1 / 16)
