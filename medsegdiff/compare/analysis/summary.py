"""Everything a study says in numbers, as one file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from medsegdiff.compare.analysis import analyses, sampling_analyses
from medsegdiff.compare.analysis.claims import ALPHA, DECLINE_MARGIN, METRIC, PAR_MARGIN
from medsegdiff.compare.analysis.evidence import judge
from medsegdiff.compare.analysis.frames import ENTRY, canonical, groups, in_order, metrics_of, read_cases, read_table
from medsegdiff.compare.analysis.statistics import mean_of
from medsegdiff.files import written_whole
from medsegdiff.metrics.summary import CONFIDENCE, N_RESAMPLES, SEED

SUMMARY_NAME = "summary.json"
UNCERTAINTY = ("ece", "ause", "ged")
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class StudyTables:
    """The tables of a study, in an order that does not depend on how they were made.

    Attributes:
        cases: a row for each case, class, run, way of sampling and step.
        runs: a row for each run and way of sampling: cost and failures.
        uncertainty: a row for each case, run and way of sampling.
        calibration: a row for each bin, run and way of sampling.
        sparsification: a row for each place of the curves of each run and way of sampling.
    """

    cases: pd.DataFrame
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    uncertainty: pd.DataFrame = field(default_factory=pd.DataFrame)
    calibration: pd.DataFrame = field(default_factory=pd.DataFrame)
    sparsification: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", canonical(self.cases))


def read_tables(folder: Path) -> StudyTables:
    """Read the tables in a study's folder; all but that of cases may be missing.

    Raises:
        DataError: there is no table of cases, or one of them is none.
    """
    others = {f.name: read_table(folder / f"{f.name}.csv") for f in fields(StudyTables) if f.name != "cases"}
    return StudyTables(cases=read_cases(folder / "cases.csv"), **others)


def analyse(study: StudyTables) -> dict[str, pd.DataFrame]:
    """Every analysis by name, empty where the study holds nothing of the kind."""
    cases, runs = study.cases, study.runs
    return {
        "main": analyses.main_table(cases),
        "classes": analyses.class_table(cases),
        "folds": analyses.spread_table(cases, "fold"),
        "seeds": analyses.spread_table(cases, "seed"),
        "against_supervised": analyses.differences(cases),
        "step_curves": sampling_analyses.step_curves(cases),
        "last_minus_first": sampling_analyses.last_minus_first(cases),
        "early_stopping": sampling_analyses.early_stopping(cases),
        "sampling_steps": sampling_analyses.sampling_steps(cases),
        "draws": sampling_analyses.draws(cases),
        "sampling_seeds": sampling_analyses.seed_spread(cases),
        "schedule_lengths": sampling_analyses.schedule_lengths(cases, runs),
        "variants": analyses.variants(cases),
        "ensembles": analyses.ensembles(cases),
        "truth_left": analyses.truth_left(cases),
        "volumes": analyses.volumes(cases),
        "uncertainty": uncertainty_table(study.uncertainty),
        "reliability": reliability_table(study.calibration),
        "cost": cost_table(runs),
    }


def summarise(study: StudyTables, tables: dict[str, pd.DataFrame] | None = None) -> dict[str, Any]:
    """Claims with their verdicts, and every analysis as a list of rows.

    The same tables give the same summary, whatever the order of their rows; all that is about accuracy comes of the
    table of cases alone.

    Args:
        study: the tables.
        tables: what `analyse` made of them, where that is at hand.

    Returns:
        "claims" (see `evidence.judge`), "settings" of the statistics, "cases" (how many, of what),
        "failed" runs, what all was "made" with, and under "tables" the analyses by name, each a list of rows.
    """
    cases = study.cases
    tables = analyse(study) if tables is None else tables
    return {
        "settings": {
            "confidence": CONFIDENCE,
            "n_resamples": N_RESAMPLES,
            "bootstrap_seed": SEED,
            "alpha": ALPHA,
            "verdicts_on": METRIC,
            "decline_margin": DECLINE_MARGIN,
            "par_margin": PAR_MARGIN,
        },
        "cases": {
            "n_cases": int(cases["case"].nunique()),
            "classes": sorted(cases["class_name"].unique()),
            "methods": in_order(cases[["method", "options"]].drop_duplicates()).to_dict("records"),
            "metrics": metrics_of(cases),
            "folds": sorted(set(cases["fold"]) - {""}),
            "seeds": sorted(set(cases["seed"]) - {""}),
        },
        "claims": judge(cases, study.runs),
        "failed": failed_runs(study.runs).to_dict("records"),
        "made": made_with(study.runs),
        "tables": {name: table.to_dict("records") for name, table in tables.items()},
    }


def uncertainty_table(uncertainty: pd.DataFrame) -> pd.DataFrame:
    """Calibration, sparsification and energy distance over cases: `ENTRY`, "measure", interval columns."""
    lines = []
    for keys, group in groups(uncertainty, ENTRY):
        for measure in [name for name in UNCERTAINTY if name in group and group[name].notna().any()]:
            of_case = group.sort_values(["case", measure]).groupby("case")[measure].mean()
            lines.append({**keys, "measure": measure, **vars(mean_of(of_case))})
    return in_order(pd.DataFrame(lines))


def reliability_table(calibration: pd.DataFrame) -> pd.DataFrame:
    """The bins of all runs of an entry together: `ENTRY`, "bin_low", "bin_high", "count", "confidence", "accuracy"."""
    lines = []
    for keys, group in groups(calibration, [*ENTRY, "bin_low", "bin_high"]):
        filled = group[group["count"] > 0].sort_values(["confidence", "accuracy", "count"])
        count = filled["count"].sum()
        means = {
            name: (filled[name] * filled["count"]).sum() / count if count else math.nan
            for name in ("confidence", "accuracy")
        }
        lines.append({**keys, "count": int(count), **means})
    return in_order(pd.DataFrame(lines))


def cost_table(runs: pd.DataFrame) -> pd.DataFrame:
    """What the runs of an entry took on average: `ENTRY`, "trainings" and the numbers of the table of runs."""
    if runs.empty:
        return pd.DataFrame()
    done = runs[runs["status"] == "done"]
    numbers = ["optimiser_steps", "train_minutes", "parameters", "seconds_per_case"]
    lines = []
    for keys, group in groups(done, ENTRY):
        means = {name: group[name].mean() for name in numbers if name in group}
        lines.append({**keys, "trainings": group["run"].nunique(), **means})
    return in_order(pd.DataFrame(lines))


def failed_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that failed: "method", "options", "fold", "seed", "reason", a row each."""
    columns = ["method", "options", "fold", "seed", "reason"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    return in_order(runs.loc[runs["status"] == "failed", columns].drop_duplicates())


def made_with(runs: pd.DataFrame) -> dict[str, Any]:
    """What a study took: "trainings" that are done, their "train_minutes" in all, and the "machines" it ran on."""
    if runs.empty:
        return {"trainings": 0, "train_minutes": math.nan, "machines": []}
    trained = runs.dropna(subset=["train_minutes"]).drop_duplicates("run")
    return {
        "trainings": len(trained),
        "train_minutes": trained["train_minutes"].sum() if len(trained) else math.nan,
        "machines": sorted(set(runs["machine"]) - {""}),
    }


def write_summary(summary: dict[str, Any], folder: Path) -> Path:
    """Write `summary.json`: strict JSON, null for what is undefined, six digits; whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    path = folder / SUMMARY_NAME
    with written_whole(path, advice="choose a folder that can be written") as partial:
        text = json.dumps(strict(summary), indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    return path


def strict(value: Any) -> Any:
    """`value` as strict JSON says it: null for NaN and infinity, plain numbers of six digits."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if hasattr(value, "item"):  # of numpy
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # Six digits are more than a metric has, and hide how machines differ in the last bits of a sum.
        rounded = float(f"{value:.{_DIGITS}g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
    return value
