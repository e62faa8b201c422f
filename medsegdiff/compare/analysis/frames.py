"""The tables of a study as data frames, and the values of its cases.

A case is the unit of every mean and test. What several classes, seeds of sampling, seeds of training and folds give for
a case is averaged first: they are no further patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medsegdiff.compare.runs import ENSEMBLE_SIGN
from medsegdiff.errors import DataError
from medsegdiff.metrics.segmentation import METRICS, METRICS_2D

TRAINING = ["method", "options", "fold", "seed"]
"""Columns that tell trained networks apart."""
SAMPLING = ["sampler", "steps", "draws"]
"""Columns that tell ways of sampling apart."""
ENTRY = ["method", "options", *SAMPLING]
"""Columns that tell the lines of a report apart: seeds and folds are averaged."""

LOWER_IS_BETTER = ("hd95",)
METHOD_ORDER = (
    *("supervised", "diffusion", "recycling", "recycling_next", "self_conditioning", "self_conditioning_next"),
    *("segdiff", "cdal"),
)
USUAL_STEPS = 5
"""Sampling steps of the recycling paper."""

_TEXT = (
    *("run", "method", "options", "fold", "seed", "sampler", "sampling_seed", "probe", "case", "class_name", "status"),
    *("reason", "machine"),
)
_KEYS = [*ENTRY, "fold", "seed", "sampling_seed", "probe", "t", "step", "class_name", "case"]
_NEEDED = [*TRAINING, *SAMPLING, "step", "sampling_seed", "probe", "t", "case", "class_name", "status", "dice"]


def read_table(path: Path) -> pd.DataFrame:
    """Read one of the study's CSV files; names stay text whatever they look like, the rest are numbers.

    Args:
        path: of the file; where it is not there, the same with `.gz` behind it is read, as published studies have it.

    Returns:
        An empty frame where there is no such file.

    Raises:
        DataError: it cannot be read as a table.
    """
    if not path.is_file():
        path = path.with_name(f"{path.name}.gz")
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError, pd.errors.ParserError) as error:
        msg = f"{path} is not a table ({' '.join(str(error).split())}); run the comparison again to write it anew"
        raise DataError(msg) from error
    for column in table.columns.difference(_TEXT):
        table[column] = pd.to_numeric(table[column], errors="coerce")
    return table


def read_cases(path: Path) -> pd.DataFrame:
    """Read `cases.csv`: a row for each case, class, run, way of sampling and step.

    Raises:
        DataError: there is no such table, or columns are missing.
    """
    cases = read_table(path)
    if missing := [column for column in _NEEDED if column not in cases]:
        msg = f"{path} has no column {', '.join(missing)}; give the folder that a comparison was written to"
        raise DataError(msg)
    return canonical(cases)


def canonical(cases: pd.DataFrame) -> pd.DataFrame:
    """The table sorted by all that tells its rows apart: no order of runs or processes moves the last digit of a sum.

    Its texts become categories, which are grouped and compared many times faster.
    """
    texts = {column: "category" for column in _TEXT if column in cases}
    return cases.astype(texts).sort_values(_KEYS, kind="stable").reset_index(drop=True)


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """The metrics that a table of cases holds any value of."""
    return [metric for metric in (*METRICS, *METRICS_2D) if metric in frame and frame[metric].notna().any()]


def ordinary(cases: pd.DataFrame) -> pd.DataFrame:
    """The rows of sampling, without probes."""
    return cases[cases["probe"] == ""]


def results(cases: pd.DataFrame) -> pd.DataFrame:
    """The rows of last steps."""
    rows = ordinary(cases)
    return rows[rows["step"] == rows["steps"]]


def case_values(cases: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """One row for each group of `by` and case: all metrics, averaged over classes first and over the rest then.

    Undefined values are left out at every stage; a case of which nothing is defined stays, as NaN.

    Args:
        cases: rows of a table of cases.
        by: the columns that tell groups apart, such as `ENTRY`; "class_name" among them keeps classes apart.
    """
    metrics = metrics_of(cases)
    keys = list(dict.fromkeys([*by, "case"]))
    # What is the same in all rows tells nothing apart, and costs time to group by.
    apart = [column for column in _KEYS if column in keys or _varies(cases[column])]
    # Classes, then seeds of sampling, so that a training counts once however often it was sampled, then the rest.
    of_case = [column for column in apart if column in keys or column != "class_name"]
    of_training = [column for column in of_case if column in keys or column != "sampling_seed"]
    values, level = cases, apart
    for columns in (of_case, of_training, keys):
        if len(columns) < len(level):
            values, level = _mean(values, columns, metrics), columns
    return values[[*keys, *metrics]]


def paired_values(
    values: pd.DataFrame, reference: pd.DataFrame, by: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The values of two sets of rows for the cases, folds and seeds of training that both have.

    A network is compared with the one that was trained with the same seed on the same fold, and cases are averaged
    after that. What is undefined on one side is left out on both.

    Args:
        values: rows of a table of cases.
        reference: the same of what is compared with.
        by: columns besides "case" that tell pairs apart, such as "seed".

    Returns:
        Two frames of the same rows, one a case (and `by`, in the index), and of the metrics that both hold as columns.
    """
    keys = list(dict.fromkeys([*by, "case", "fold", "seed"]))
    sides = [case_values(side, keys).set_index(keys) for side in (values, reference)]
    metrics = [metric for metric in sides[0] if metric in sides[1]]
    common = sides[0].index.intersection(sides[1].index).sort_values()
    one, other = (side.loc[common, metrics] for side in sides)
    defined = one.notna() & other.notna()
    levels = [*by, "case"]
    first, second = (
        side.where(defined).groupby(level=levels, sort=True, observed=True).mean() for side in (one, other)
    )
    return first, second


def matches(frame: pd.DataFrame, keys: dict[str, Any]) -> pd.DataFrame:
    """The rows whose columns have these values."""
    chosen = pd.Series(True, index=frame.index)
    for column, value in keys.items():
        chosen &= frame[column] == value
    return frame[chosen]


def groups(frame: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The values of the columns `by` and the rows that have them, sorted; nothing for an empty table."""
    if frame.empty:
        return
    for keys, group in frame.groupby(list(by), sort=True, dropna=False, observed=True):
        yield dict(zip(by, keys, strict=True)), group


def parts_of(method: str) -> list[str]:
    """The labels of an ensemble's members, such as of "supervised+recycling"; none of a single method."""
    parts = method.split(ENSEMBLE_SIGN)
    return parts if len(parts) > 1 else []


def labelled(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    """The rows of a variant by its name, or of a plain method or an ensemble by its."""
    return frame[(frame["options"] == label) | ((frame["options"] == "") & (frame["method"] == label))]


def primary_entries(cases: pd.DataFrame) -> pd.DataFrame:
    """The one way of sampling that stands for each method and variant where a report has a single line for it.

    It is the one that most methods were sampled in, so that they are compared on an equal footing; of several such,
    DDPM before others, then the number of steps that is nearest to the recycling paper's 5, then the fewest draws.

    Returns:
        `ENTRY`, in the order of a report.
    """
    entries = results(cases)[ENTRY].drop_duplicates()
    if entries.empty:
        return entries
    entries = entries.assign(
        shared=-entries.groupby(SAMPLING, observed=True)["method"].transform("size"),
        other=entries["sampler"] != "ddpm",
        distance=(entries["steps"] - USUAL_STEPS).abs(),
    )
    best = entries.sort_values(["shared", "other", "distance", "steps", "draws", "sampler"])
    return in_order(best.drop_duplicates(["method", "options"])[ENTRY])


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows as reports show them: the papers' order of methods, ensembles last; other columns stay in order."""
    if frame.empty:
        return frame.reset_index(drop=True)
    rank = {name: place for place, name in enumerate(METHOD_ORDER)}
    keys = pd.DataFrame(index=frame.index)
    keys["rank"] = [rank.get(name, len(rank) + bool(parts_of(name))) for name in frame["method"]]
    for column in [column for column in ("method", "options") if column in frame]:
        keys[column] = frame[column]
    if "sampler" in frame:
        keys["other"] = frame["sampler"] != "ddpm"
        keys[SAMPLING] = frame[SAMPLING]
    return frame.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True)


def _mean(frame: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    return frame.groupby(by, sort=True, dropna=False, observed=True, as_index=False)[columns].mean()


def _varies(column: pd.Series) -> bool:
    """Whether two rows differ."""
    return len(column) > 0 and not (column.isna().all() or (column == column.iloc[0]).all())
