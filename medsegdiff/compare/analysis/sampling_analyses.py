"""The papers' tables of sampling: what each step gives, how many steps and draws, which seed, how long a schedule.

Every function takes the table of cases and gives a table, empty where the study holds nothing of the kind; for the
names of columns see `analyses`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from medsegdiff.compare.analysis.analyses import compared, with_holm
from medsegdiff.compare.analysis.frames import (
    ENTRY,
    case_values,
    groups,
    in_order,
    matches,
    metrics_of,
    ordinary,
    primary_entries,
    results,
)
from medsegdiff.compare.analysis.statistics import mean_of

CURVES = ("dice", "iou", "hd95")
"""Metrics whose way over the steps the papers draw."""


def step_curves(cases: pd.DataFrame, metrics: Sequence[str] = CURVES) -> pd.DataFrame:
    """Metrics of the prediction at every measured step (Fu et al. 2023, Figures 3 and 10).

    Returns:
        `ENTRY`, "step" (from 1), "metric", interval columns; only of sampling in more than one step.
    """
    lines = []
    for keys, group in groups(_sampled(cases), [*ENTRY, "step"]):
        values = case_values(group, ENTRY)
        lines += [{**keys, "metric": metric, **asdict(mean_of(values[metric]))} for metric in _known(metrics, group)]
    return in_order(pd.DataFrame(lines))


def last_minus_first(cases: pd.DataFrame, metrics: Sequence[str] = CURVES) -> pd.DataFrame:
    """What the steps after the first change, case by case (Figures 8 and 9).

    Returns:
        `ENTRY`, "metric", paired columns (last step − first step), Holm's p within the metric.
    """
    lines = []
    for keys, group in groups(_sampled(cases), ENTRY):
        first, last = (group[group["step"] == step] for step in (1, keys["steps"]))
        lines += compared(keys, last, first, metrics)
    return in_order(with_holm(pd.DataFrame(lines), ["metric"]))


def early_stopping(cases: pd.DataFrame, metrics: Sequence[str] = CURVES) -> pd.DataFrame:
    """What is lost where the sampling of one trained network stops early (SegDiff, Figure 3).

    Not the same as fewer steps over the whole schedule (`sampling_steps`), nor as training with another T
    (`schedule_lengths`).

    Returns:
        `ENTRY`, "step", "share" (of the steps, below 1), "metric", paired columns (stopped − to the end).
    """
    lines = []
    for keys, group in groups(_sampled(cases), ENTRY):
        end = group[group["step"] == keys["steps"]]
        for step, stopped in group[group["step"] < keys["steps"]].groupby("step", sort=True):
            lines += compared({**keys, "step": step, "share": step / keys["steps"]}, stopped, end, metrics)
    return in_order(pd.DataFrame(lines))


def sampling_steps(cases: pd.DataFrame, metrics: Sequence[str] = CURVES) -> pd.DataFrame:
    """How many steps one trained network is sampled in (Table 3).

    Returns:
        `ENTRY`, "metric", interval columns, "against" (the least number of steps), and "difference", "difference_low",
        "difference_high", "improved", "p_t" and "p_wilcoxon" of the paired difference to it, NaN for itself; where a
        method was sampled in two numbers of steps or more.
    """
    return _by_setting(cases, "steps", metrics)


def draws(cases: pd.DataFrame, metrics: Sequence[str] = CURVES) -> pd.DataFrame:
    """How many draws are averaged (SegDiff, Figure 4); columns as of `sampling_steps`, for draws."""
    return _by_setting(cases, "draws", metrics)


def seed_spread(cases: pd.DataFrame, metrics: Sequence[str] = CURVES) -> pd.DataFrame:
    """How far results from different seeds of the sampling noise lie apart, at every step (Table 4).

    Returns:
        `ENTRY`, "step", "metric", "seeds" and the interval columns of the mean over pairs of seeds of |difference| in a
        case.
    """
    lines = []
    for keys, group in groups(ordinary(cases), [*ENTRY, "step"]):
        seeds = sorted(group["sampling_seed"].unique())
        if len(seeds) < 2:
            continue
        trained = ["case", "fold", "seed"]
        values = case_values(group, [*trained, "sampling_seed"])
        for metric in _known(metrics, group):
            wide = values.set_index([*trained, "sampling_seed"])[metric].unstack("sampling_seed")
            apart = [(wide[one] - wide[other]).abs() for one, other in itertools.combinations(wide.columns, 2)]
            of_training = pd.concat(apart, axis=1).mean(axis=1)
            of_case = of_training.groupby(level="case", observed=True).mean()
            lines.append({**keys, "metric": metric, "seeds": len(seeds), **asdict(mean_of(of_case))})
    return in_order(pd.DataFrame(lines))


def schedule_lengths(cases: pd.DataFrame, runs: pd.DataFrame, metrics: Sequence[str] = CURVES) -> pd.DataFrame:
    """Networks that were trained with different numbers T of time steps (Table 10; SegDiff, Figure 7).

    Args:
        cases: the table of cases.
        runs: the table of runs; T is its column "num_train_timesteps".
        metrics: which to give.

    Returns:
        `ENTRY`, "T", "seconds_per_case", the other columns as of `sampling_steps`, "against" being the T of the plain
        method; where a method was trained with two T or more.
    """
    if runs.empty or "num_train_timesteps" not in runs:
        return pd.DataFrame()
    known = runs.dropna(subset=["num_train_timesteps"]).drop_duplicates("run").set_index("run")["num_train_timesteps"]
    rows = results(cases).assign(T=lambda table: table["run"].astype(str).map(known)).dropna(subset=["T"])
    lines = []
    for _, group in groups(rows, ["method"]):
        plain = group[group["options"] == ""]
        if group["T"].nunique() < 2 or plain.empty:
            continue
        chosen = primary_entries(group)
        base = matches(plain, chosen[chosen["options"] == ""].iloc[0].to_dict())
        for entry in chosen.to_dict("records"):
            variant = matches(group, entry)
            keys = {**entry, "T": variant["T"].iloc[0]}
            if entry["options"] and keys["T"] == base["T"].iloc[0]:
                continue  # a variant in something else
            seconds = matches(runs, {column: keys[column] for column in ENTRY})["seconds_per_case"].mean()
            against = {"seconds_per_case": seconds, "against": base["T"].iloc[0]}
            lines += _with_difference({**keys, **against}, variant, base, metrics)
    return in_order(pd.DataFrame(lines))


def _by_setting(cases: pd.DataFrame, setting: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Results over the values of one column of `ENTRY`, the others equal."""
    rows = results(cases)
    lines = []
    for _, group in groups(rows[rows["sampler"] != ""], [column for column in ENTRY if column != setting]):
        values = sorted(group[setting].unique())
        if len(values) < 2:
            continue
        base = group[group[setting] == values[0]]
        for keys, one in groups(group, ENTRY):
            lines += _with_difference({**keys, "against": values[0]}, one, base, metrics)
    return in_order(pd.DataFrame(lines))


def _with_difference(
    keys: dict[str, Any], rows: pd.DataFrame, base: pd.DataFrame, metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """A line for each metric: its mean, and its paired difference to `base` unless that is the rows themselves."""
    values = case_values(rows, ENTRY)
    same = rows.index.equals(base.index)
    found = [] if same else compared({}, rows, base, metrics)
    of_metric = {line["metric"]: line for line in found}
    lines = []
    for metric in _known(metrics, rows):
        of = of_metric.get(metric, {})
        names = {"difference_low": "ci_low", "difference_high": "ci_high"}
        kept = ("difference", "difference_low", "difference_high", "improved", "p_t", "p_wilcoxon")
        difference = {name: of.get(names.get(name, name), math.nan) for name in kept}
        lines.append({**keys, "metric": metric, **asdict(mean_of(values[metric])), **difference})
    return lines


def _sampled(cases: pd.DataFrame) -> pd.DataFrame:
    rows = ordinary(cases)
    return rows[rows["steps"] > 1]


def _known(metrics: Sequence[str], rows: pd.DataFrame) -> list[str]:
    measured = metrics_of(rows)
    return [metric for metric in metrics if metric in measured]
