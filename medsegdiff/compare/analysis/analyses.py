"""The papers' tables of methods: results, classes, folds and seeds, differences, variants, ensembles, volumes, x_t.

Every function takes the table of cases and gives a table, empty where the study holds nothing of the kind; those of the
sampling itself are in `sampling_analyses`. "Paired" columns are those of `PairedComparison`, "interval" columns those
of `Mean`; both are over cases, see `frames`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from medsegdiff.compare.analysis.frames import (
    ENTRY,
    LOWER_IS_BETTER,
    SAMPLING,
    case_values,
    groups,
    in_order,
    labelled,
    matches,
    metrics_of,
    paired_values,
    parts_of,
    primary_entries,
    results,
)
from medsegdiff.compare.analysis.statistics import agreement, compare_paired, holm, mean_of

BASELINE = "supervised"
ALL_CLASSES = ""
"""In a column of classes: the mean over all of them."""


def main_table(cases: pd.DataFrame) -> pd.DataFrame:
    """Every method and way of sampling (Fu et al. 2023, Tables 1 and 2).

    Returns:
        `ENTRY`, "primary" (the way of sampling that stands for the method), "metric", interval columns, and "missed"
        and "spurious", the numbers of structures that truth alone or prediction alone holds.
    """
    rows = results(cases)
    primary = {tuple(entry) for entry in primary_entries(cases)[ENTRY].itertuples(index=False)}
    lines = []
    for keys, group in groups(rows, ENTRY):
        values = case_values(group, ENTRY)
        counts = {status: int((group["status"] == status).sum()) for status in ("missed", "spurious")}
        for metric in metrics_of(rows):
            lines.append(
                {
                    **keys,
                    "primary": tuple(keys.values()) in primary,
                    "metric": metric,
                    **asdict(mean_of(values[metric])),
                    **counts,
                }
            )
    return in_order(pd.DataFrame(lines))


def class_table(cases: pd.DataFrame) -> pd.DataFrame:
    """The same, class by class (Tables 8 and 9).

    Returns:
        `ENTRY`, "class_name", "metric", interval columns, "missed", "spurious".
    """
    lines = []
    for keys, group in groups(results(cases), [*ENTRY, "class_name"]):
        values = case_values(group, [*ENTRY, "class_name"])
        counts = {status: int((group["status"] == status).sum()) for status in ("missed", "spurious")}
        lines += [
            {**keys, "metric": metric, **asdict(mean_of(values[metric])), **counts} for metric in metrics_of(group)
        ]
    return in_order(pd.DataFrame(lines))


def spread_table(cases: pd.DataFrame, over: str) -> pd.DataFrame:
    """Mean and standard deviation over folds, or over trainings from different seeds.

    Args:
        cases: the table.
        over: "fold" or "seed".

    Returns:
        `ENTRY`, "metric", "groups" (how many, at least two), "mean" and "sd" of their means, "lowest", "highest".
    """
    lines = []
    for keys, group in groups(results(cases), ENTRY):
        # Each fold, or seed, has the mean of its own cases; the spread of these is asked for.
        means = case_values(group, [*ENTRY, over]).groupby(over, observed=True)[metrics_of(group)].mean()
        if len(means) < 2:
            continue
        lines += [
            {
                **keys,
                "metric": metric,
                "groups": len(means),
                "mean": means[metric].mean(),
                "sd": means[metric].std(ddof=1),
                "lowest": means[metric].min(),
                "highest": means[metric].max(),
            }
            for metric in means
        ]
    return in_order(pd.DataFrame(lines))


def differences(cases: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Every method against one of them, each by its primary way of sampling.

    Returns:
        `ENTRY`, "metric", paired columns, "p_t_holm" and "p_wilcoxon_holm", corrected within the metric.
    """
    entries = primary_entries(cases)
    reference = entries[(entries["method"] == baseline) & (entries["options"] == "")]
    if reference.empty:
        return pd.DataFrame()
    rows = results(cases)
    base = matches(rows, reference.iloc[0][ENTRY].to_dict())
    lines = []
    for _, entry in entries.drop(reference.index).iterrows():
        keys = entry[ENTRY].to_dict()
        lines += compared(keys, matches(rows, keys), base)
    return in_order(with_holm(pd.DataFrame(lines), ["metric"]))


def variants(cases: pd.DataFrame) -> pd.DataFrame:
    """Every variant of a method against the plain method: with and without an option (Tables 5 and 10).

    Returns:
        `ENTRY` of the variant, "metric", paired columns (variant − plain), Holm's p within the metric. The sampling is
        the same on both sides; where they share none, each is taken by its primary one and `ENTRY` tells the variant's.
    """
    rows = results(cases)
    lines = []
    for keys, group in groups(rows[rows["options"] != ""], ["method", "options"]):
        plain = rows[(rows["method"] == keys["method"]) & (rows["options"] == "")]
        if plain.empty:
            continue
        shared = [(s, of) for s, of in groups(group, SAMPLING) if not matches(plain, s).empty]
        for sampling, of_variant in shared:
            lines += compared({**keys, **sampling}, of_variant, matches(plain, sampling))
        if not shared:
            chosen = [primary_entries(table).iloc[0][ENTRY].to_dict() for table in (group, plain)]
            lines += compared(chosen[0], matches(group, chosen[0]), matches(plain, chosen[1]))
    return in_order(with_holm(pd.DataFrame(lines), ["metric"]))


def ensembles(cases: pd.DataFrame) -> pd.DataFrame:
    """Every ensemble against each of its parts, over all classes and class by class (Table 2, Figure 5, Table 8).

    Returns:
        `ENTRY` of the ensemble, "part", "class_name" (`ALL_CLASSES` for the mean), "metric", paired columns, Holm's p
        within metric and kind of row.
    """
    rows = results(cases)
    entries = primary_entries(cases)
    lines = []
    for _, entry in entries.iterrows():
        keys = entry[ENTRY].to_dict()
        for part in parts_of(keys["method"]):
            whole, alone = matches(rows, keys), _part(rows, part, keys)
            for name in [ALL_CLASSES, *whole["class_name"].unique()]:
                pair = [t if name == ALL_CLASSES else t[t["class_name"] == name] for t in (whole, alone)]
                lines += compared({**keys, "part": part, "class_name": name}, *pair)
    table = pd.DataFrame(lines)
    if not table.empty:
        table["per_class"] = table["class_name"] != ALL_CLASSES
        table = with_holm(table, ["metric", "per_class"]).drop(columns="per_class")
    return in_order(table)


def volumes(cases: pd.DataFrame) -> pd.DataFrame:
    """Bland–Altman's bias and limits of the volumes (areas in 2-D) of each class, prediction − truth.

    Returns:
        `ENTRY`, "class_name" and the fields of `Agreement`, in mm³ (mm²), for the primary ways of sampling.
    """
    lines = []
    for keys, pairs in volume_pairs(cases):
        lines.append({**keys, **asdict(agreement(pairs["prediction_volume"], pairs["truth_volume"]))})
    return in_order(pd.DataFrame(lines))


def volume_pairs(cases: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The volumes behind `volumes`: `ENTRY` and "class_name", and per case the two volumes, averaged over seeds.

    Cases of which neither truth nor prediction holds the class say nothing of its volume and are left out.
    """
    rows = results(cases)
    both = ["prediction_volume", "truth_volume"]
    if not set(both) <= set(rows.columns):
        return
    rows = rows[rows["status"] != "absent"]
    for _, entry in primary_entries(cases).iterrows():
        for keys, group in groups(matches(rows, entry[ENTRY].to_dict()), [*ENTRY, "class_name"]):
            yield keys, group.sort_values(["case", *both]).groupby("case", observed=True)[both].mean().reset_index()


def truth_left(cases: pd.DataFrame) -> pd.DataFrame:
    """One prediction at t from x_t made of the truth, and one from pure noise: whether a network uses x_t.

    Returns:
        "method", "options", "t", "metric", "from_truth", "from_noise", "in_x_t" (what x_t itself says, without a
        network, Fu et al. 2023, Figure 7d; NaN where that was not measured), paired columns (truth − noise).
    """
    probes = cases[cases["probe"] != ""]
    lines = []
    for keys, group in groups(probes, ["method", "options", "t"]):
        truth, noise, mask = (group[group["probe"] == kind] for kind in ("truth", "noise", "x_t"))
        alone = case_values(mask, ["case"])
        lines += [
            {
                **line,
                "from_truth": one[line["metric"]].mean(),
                "from_noise": other[line["metric"]].mean(),
                "in_x_t": alone.get(line["metric"], pd.Series(dtype=float)).mean(),
            }
            for one, other in [paired_values(truth, noise)]
            for line in compared(keys, truth, noise)
        ]
    return in_order(pd.DataFrame(lines))


def compared(
    keys: dict[str, Any], rows: pd.DataFrame, reference: pd.DataFrame, metrics: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """`keys`, "metric" and paired columns (rows − reference), for each metric in which both share cases.

    Args:
        keys: columns to put before.
        rows: of a table of cases.
        reference: the same of what is compared with.
        metrics: which to compare, by default all.
    """
    if rows.empty or reference.empty:
        return []
    one, other = paired_values(rows, reference)
    lines = []
    for metric in one if metrics is None else [metric for metric in metrics if metric in one]:
        comparison = compare_paired(one[metric], other[metric], higher_is_better=metric not in LOWER_IS_BETTER)
        # Nothing in common is no comparison; nothing defined is one, with all cases counted as undefined.
        if len(one):
            lines.append({**keys, "metric": metric, **asdict(comparison)})
    return lines


def with_holm(table: pd.DataFrame, families: list[str]) -> pd.DataFrame:
    """Add "p_t_holm" and "p_wilcoxon_holm": rows that agree in `families` are one family."""
    if table.empty:
        return table
    table = table.reset_index(drop=True)
    for test in ("p_t", "p_wilcoxon"):
        for _, family in table.groupby(families, dropna=False):
            table.loc[family.index, f"{test}_holm"] = holm(family[test].tolist())
    return table


def _part(rows: pd.DataFrame, part: str, ensemble: dict[str, Any]) -> pd.DataFrame:
    """The rows of one member of an ensemble, sampled as the ensemble was where it was sampled so."""
    own = labelled(rows, part)
    same = matches(own, {column: ensemble[column] for column in SAMPLING})
    if same.empty and not own.empty:
        return matches(own, primary_entries(own).iloc[0][ENTRY].to_dict())
    return same
