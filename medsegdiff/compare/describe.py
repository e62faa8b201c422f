"""A plan as a table for people."""

from __future__ import annotations

from collections.abc import Mapping

from medsegdiff.compare.cost import Cost
from medsegdiff.compare.plan import Plan
from medsegdiff.compare.runs import Run

HEADER = ("run", "method", "fold", "seed", "training", "optimiser steps", "epochs", "measured", "network calls", "min")


def describe_plan(plan: Plan, costs: Mapping[str, Cost]) -> str:
    """What a study will do, what is done of it, and what the rest costs.

    Network calls are those on one image: of training, where one with its gradient counts as three, and of evaluation.
    """
    study = plan.study
    data = f"cases of {study.dataset_dir}" if study.dataset_dir else "generated phantoms, no real images"
    budget = study.budget
    amount = f"{budget.steps} optimiser steps" if budget.steps is not None else f"{budget.minutes:g} minutes"
    lines = [
        f"study {study.name}: bundle {study.bundle.name}, {data}; {amount} a method",
        *(_fold_line(fold, plan) for fold in plan.parts),
        f"results in {plan.folder}",
        "",
        *_table([HEADER, *(_row(plan, run, costs[run.hash]) for run in plan.runs)]),
        "",
        _total(costs),
    ]
    return "\n".join(lines)


def _fold_line(fold: int | None, plan: Plan) -> str:
    parts = ", ".join(f"{len(cases)} {part}" for part, cases in plan.parts[fold].items())
    return f"{'split' if fold is None else f'fold {fold}'}: {parts}"


def _row(plan: Plan, run: Run, cost: Cost) -> tuple[str, ...]:
    training = run.training
    asked = len(run.asked)
    calls = f"{_count(cost.training_calls)} + {_count(cost.sampling_calls)}"
    steps = epochs = ""
    if training is not None:
        steps = epochs = "by time"
        if training.budget.steps is not None:
            number = training.epochs(training.budget.steps)
            steps, epochs = str(number * training.steps_per_epoch), str(number)
    return (
        run.hash,
        run.options or run.method,
        "" if run.fold is None else str(run.fold),
        str(run.seed),
        "of its members" if run.members else run.state,
        steps,
        epochs,
        f"{asked - len(plan.missing(run))} of {asked}",
        calls,
        "?" if cost.minutes is None else f"{cost.minutes:.1f}",
    )


def _total(costs: Mapping[str, Cost]) -> str:
    minutes = [cost.minutes for cost in costs.values()]
    known = [one for one in minutes if one is not None]
    calls = sum((cost.training_calls or 0) + cost.sampling_calls for cost in costs.values())
    if len(known) == len(minutes):
        return f"to do: {_count(calls)} network calls, about {sum(known):.0f} minutes on one worker"
    return (
        f"to do: {_count(calls)} network calls; how long they take is not known before something is measured "
        "(--time-steps measures a few training steps)"
    )


def _count(calls: float | None) -> str:
    if calls is None:
        return "?"
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if calls >= unit:
            return f"{calls / unit:.1f}{letter}"
    return f"{calls:.0f}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
