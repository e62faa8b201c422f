"""The tables of a study: what stands in the runs' folders, joined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from medsegdiff.compare.plan import Plan
from medsegdiff.compare.runs import DONE, FAILED, Probe, Run, Sampling, read_json
from medsegdiff.files import written_whole
from medsegdiff.metrics.segmentation import ClassMetrics

RUN_COLUMNS = ("run", "method", "options", "fold", "seed")
SAMPLING_COLUMNS = ("sampler", "steps", "draws", "sampling_seed")
KEYS = (*RUN_COLUMNS, *SAMPLING_COLUMNS)
TABLES: dict[str, tuple[str, ...]] = {
    "cases.csv": (
        *(*RUN_COLUMNS, "sampler", "steps", "step", "draws", "sampling_seed", "probe", "t"),
        *(field.name for field in fields(ClassMetrics)),
    ),
    "runs.csv": (
        *(*RUN_COLUMNS, "status", "reason", "optimiser_steps", "train_minutes", "parameters"),
        "num_train_timesteps",
        *(*SAMPLING_COLUMNS, "seconds_per_case", "machine"),
    ),
    "uncertainty.csv": (*KEYS, "case", "ece", "ause", "ged"),
    "calibration.csv": (*KEYS, "bin_low", "bin_high", "count", "confidence", "accuracy"),
    "sparsification.csv": (*KEYS, "removed", "error", "oracle"),
}


def write_tables(plan: Plan, reasons: Mapping[str, str]) -> None:
    """Write all tables of a study anew, each whole or not at all.

    They hold what the study asks for, and of that what is there; an evaluation that another study left in a run's
    folder stays there and out of them.

    Args:
        plan: of the study.
        reasons: why runs could not be measured, by their hash.

    Raises:
        DataError: a table cannot be written.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for run in plan.runs:
        keys = {"run": run.hash, "method": run.method, "options": run.options, "fold": run.fold, "seed": run.seed}
        rows["runs.csv"] += [{**keys, **row} for row in _run_rows(plan, run, reasons.get(run.hash))]
        for what in run.asked:
            found = read_json(plan.evaluation_file(run, what))
            sampled = {**keys, **sampling_columns(what)}
            rows["cases.csv"] += [{**sampled, **row} for row in found.get("cases", [])]
            for name in ("uncertainty", "calibration", "sparsification"):
                rows[f"{name}.csv"] += [{**sampled, **row} for row in found.get(name, [])]
    for name, columns in TABLES.items():
        _write(plan.folder / name, rows[name], columns)


def sampling_columns(what: Sampling | Probe) -> dict[str, Any]:
    """How a row was sampled; a probe is one step of no sampler."""
    sampling = Sampling("", 1, 1, what.seed) if isinstance(what, Probe) else what
    return {
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        "draws": sampling.draws,
        "sampling_seed": sampling.seed,
    }


def failures(plan: Plan, reasons: Mapping[str, str]) -> dict[str, str]:
    """Why runs failed, by their labels."""
    found = {run.label: _failure(run, reasons.get(run.hash)) for run in plan.runs}
    return {label: reason for label, reason in found.items() if reason is not None}


def _run_rows(plan: Plan, run: Run, reason: str | None) -> Iterable[dict[str, Any]]:
    """A row for each sampling that was measured; one that says why where a run failed."""
    record = run.record(DONE)
    trained = {name: record.get(name) for name in ("optimiser_steps", "train_minutes", "parameters", "machine")}
    trained["num_train_timesteps"] = run.training.num_train_timesteps if run.training else None
    if run.members:
        trained["parameters"] = sum(member.training.parameters for member in run.members if member.training)
    reason = _failure(run, reason)
    if reason is not None:
        yield {**trained, "status": FAILED, "reason": reason}
    for sampling in run.samplings:
        found = read_json(plan.evaluation_file(run, sampling))
        if found:
            machine = trained["machine"] or found.get("machine")
            sampled = {**sampling_columns(sampling), "seconds_per_case": found.get("seconds_per_case")}
            yield {**trained, "machine": machine, "status": DONE, "reason": "", **sampled}


def _failure(run: Run, reason: str | None) -> str | None:
    for member in run.members:
        if (failure := _failure(member, None)) is not None:
            return f"its member {member.label} failed: {failure}"
    return reason or run.record(FAILED).get("reason")


def _write(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    # As objects: where some rows of a column are empty, its whole numbers would else become 3.0.
    table = pd.DataFrame(rows, columns=list(columns), dtype=object)
    table = table.where(table.notna(), "")
    with written_whole(path, advice="free space, or choose another --output") as partial:
        table.to_csv(partial, index=False, encoding="utf-8")
