"""What a study is said to cost, and the plan that is printed."""

from __future__ import annotations

import pytest

from medsegdiff.compare.cost import estimate
from medsegdiff.compare.describe import describe_plan
from medsegdiff.compare.runs import DONE
from medsegdiff.data.splits import write_json


@pytest.fixture
def plan(plan_study):
    return plan_study(
        methods=["supervised", "diffusion", "recycling"],
        ensembles=[["supervised", "recycling"]],
        evaluation={"samplers": ["ddpm", "ddim"], "steps": [3], "draws": [2], "probe_t": 250},
    )


def test_calls_are_counted_before_anything_is_known(plan):
    costs = {run.method: cost for run, cost in zip(plan.runs, estimate(plan).values(), strict=True)}

    # 6 steps of 2 samples, three or four calls each; two cases, 3 steps of 2 draws by two samplers, 2 for the probe.
    assert (costs["supervised"].training_calls, costs["supervised"].sampling_calls) == (36, 2)
    assert (costs["diffusion"].training_calls, costs["diffusion"].sampling_calls) == (36, 2 * (2 * 6 + 2))
    assert costs["recycling"].training_calls == 48
    assert (costs["supervised+recycling"].training_calls, costs["supervised+recycling"].sampling_calls) == (0, 48)
    assert {cost.minutes for cost in costs.values()} == {None}
    assert "how long they take is not known" in describe_plan(plan, estimate(plan))


def test_minutes_come_from_what_was_measured(plan, pretend_trained):
    supervised, diffusion, recycling, _ensemble = plan.runs
    pretend_trained(diffusion)
    diffusion.write_record(DONE, {**diffusion.record(DONE), "optimiser_steps": 6, "train_minutes": 3.0})
    write_json(plan.evaluation_file(diffusion, diffusion.samplings[0]), {"cases": [], "seconds_per_case": 30.0})
    costs = estimate(plan)

    # 30 s a step and 5 s a call.
    assert costs[diffusion.hash].training_calls == 0
    assert costs[diffusion.hash].minutes == pytest.approx(2 * (6 + 2) * 5 / 60)
    assert costs[supervised.hash].minutes == pytest.approx(3 + 2 * 5 / 60)
    assert costs[recycling.hash].minutes == pytest.approx(3 * 4 / 3 + 28 * 5 / 60)


def test_steps_are_timed_where_that_is_asked_for(plan):
    timed = []

    def measure(run):
        timed.append(run.method)
        return 6.0

    costs = estimate(plan, measure)
    assert timed == ["supervised", "diffusion", "recycling"]
    assert costs[plan.runs[0].hash].minutes == pytest.approx(6 * 6 / 60 + 2 * 1 / 60)


def test_a_budget_of_minutes_is_its_own_estimate(plan_study):
    plan = plan_study(budget={"minutes": 20})
    cost = estimate(plan)[plan.runs[0].hash]
    assert cost.training_calls is None and cost.optimiser_steps is None
    assert "by time" in describe_plan(plan, estimate(plan))


def test_the_plan_shows_what_is_done(plan, pretend_trained):
    pretend_trained(plan.runs[0])
    write_json(plan.evaluation_file(plan.runs[0], plan.runs[0].samplings[0]), {"cases": [], "seconds_per_case": 1.0})
    text = describe_plan(plan, estimate(plan))

    assert "split: 7 training, 1 validation, 2 test" in text
    assert "generated phantoms, no real images" in text
    line = next(line for line in text.splitlines() if line.startswith(plan.runs[0].hash))
    assert " done " in line and "1 of 1" in line
    line = next(line for line in text.splitlines() if line.startswith(plan.runs[2].hash))
    assert " to do " in line and "0 of 3" in line and "48 + 28" in line


def test_every_run_has_a_line(plan_study):
    plan = plan_study(seeds=[0, 1])
    hashes = tuple(run.hash for run in plan.runs)
    lines = describe_plan(plan, estimate(plan)).splitlines()
    assert sum(line.startswith(hashes) for line in lines) == 4
