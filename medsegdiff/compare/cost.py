"""What a study will cost: network calls, and minutes where something like it was timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from medsegdiff.compare.plan import Plan
from medsegdiff.compare.runs import DONE, ENSEMBLE_SIGN, Run, Sampling, Training, read_json
from medsegdiff.methods import get_method

# Of a training sample, in calls of the network on one image: a call with its gradient counts as three, one without as
# one. Recycling and self-conditioning predict once more without; beside cDAL's generator, which is called for both
# updates, stands a discriminator of about its cost.
_TRAINING_CALLS: dict[str, float] = {"supervised": 3, "diffusion": 3, "adversarial": 6}
_TWO_PASSES = 4


@dataclass(frozen=True)
class Cost:
    """What is left to do of a run.

    Attributes:
        optimiser_steps: of training; None where a budget of minutes decides that later.
        training_calls: of the network on one image, in training; None likewise.
        sampling_calls: the same, in evaluation.
        minutes: of both; None where nothing tells.
    """

    optimiser_steps: int | None
    training_calls: float | None
    sampling_calls: int
    minutes: float | None


@dataclass(frozen=True)
class Pace:
    """Seconds of an optimiser step of a method, and of one network call in evaluation; None where nothing is known."""

    method: str
    step_seconds: float | None = None
    call_seconds: float | None = None


def estimate(plan: Plan, timed: Callable[[Run], float] | None = None) -> dict[str, Cost]:
    """What is left to do of every run, by its hash.

    Minutes come from what is done of the same variant; else from timed steps, where those are asked for, a call in
    evaluation being taken to last as long as one in training; else from other methods, steps scaled by their calls.

    Args:
        plan: of the study.
        timed: gives the seconds of an optimiser step of a run.
    """
    paces = _measured(plan)
    costs = {}
    for run in plan.runs:
        pace, training = paces.get(_variant(run)), run.training
        if pace is None and timed is not None and training is not None and run.state != DONE:
            seconds = timed(run)
            pace = paces[_variant(run)] = Pace(run.method, seconds, seconds / _calls_per_step(training))
        costs[run.hash] = _cost(plan, run, pace or _scaled(paces, run))
    return costs


def sampling_calls(plan: Plan, run: Run) -> int:
    """Network calls that evaluate what is missing of a run; windows are not counted, nor ensembles' members apart."""
    members = max(1, len(run.members))
    calls = sum(what.steps * what.draws if isinstance(what, Sampling) else 2 for what in plan.missing(run))
    return calls * members * len(plan.cases(run))


def _cost(plan: Plan, run: Run, pace: Pace) -> Cost:
    training = run.training
    steps: int | None = 0
    minutes: float | None = 0.0
    training_calls: float | None = 0
    if training is not None and run.state != DONE:
        budget = training.budget
        if budget.steps is not None:
            steps = training.epochs(budget.steps) * training.steps_per_epoch
            training_calls = steps * _calls_per_step(training)
            minutes = None if pace.step_seconds is None else steps * pace.step_seconds / 60
        else:
            steps = training_calls = None
            minutes = budget.minutes
    calls = sampling_calls(plan, run)
    if calls:
        sampling = None if pace.call_seconds is None else calls * pace.call_seconds / 60
        minutes = None if minutes is None or sampling is None else minutes + sampling
    return Cost(steps, training_calls, calls, minutes)


def _measured(plan: Plan) -> dict[str, Pace]:
    """The paces of variants of which something is done."""
    paces: dict[str, Pace] = {}
    for run in plan.runs:
        record = run.record(DONE)
        step = 60 * record["train_minutes"] / record["optimiser_steps"] if record.get("optimiser_steps") else None
        call = None
        for sampling in run.samplings:
            seconds = read_json(plan.evaluation_file(run, sampling)).get("seconds_per_case")
            if seconds is not None:
                call = seconds / (sampling.steps * sampling.draws * max(1, len(run.members)))
        before = paces.get(_variant(run), Pace(run.method))
        if step is not None or call is not None:
            pace = Pace(run.method, step or before.step_seconds, call or before.call_seconds)
            paces[_variant(run)] = pace
    return _completed(paces)


def _completed(paces: dict[str, Pace]) -> dict[str, Pace]:
    """The same, with the calls of others where a variant is trained but not measured yet."""
    calls = [pace.call_seconds for pace in paces.values() if pace.call_seconds is not None]
    mean = sum(calls) / len(calls) if calls else None
    return {label: replace(pace, call_seconds=pace.call_seconds or mean) for label, pace in paces.items()}


def _scaled(paces: Mapping[str, Pace], run: Run) -> Pace:
    """The pace of others, their steps scaled by their calls."""
    calls = [pace.call_seconds for pace in paces.values() if pace.call_seconds is not None]
    steps = [
        pace.step_seconds / _calls_of(pace.method)
        for pace in paces.values()
        if pace.step_seconds is not None and ENSEMBLE_SIGN not in pace.method
    ]
    call = sum(calls) / len(calls) if calls else None
    step = sum(steps) / len(steps) * _calls_of(run.method) if steps and run.training is not None else None
    return Pace(run.method, step, call)


def _variant(run: Run) -> str:
    return run.options or run.method


def _calls_per_step(training: Training) -> float:
    return _calls_of(training.spec.method) * training.batch_size * training.accumulation


def _calls_of(method: str) -> float:
    return _TRAINING_CALLS.get(get_method(method).strategy, _TWO_PASSES)
