"""The paired comparisons that claims rest on, and the verdicts; the rules are in `claims`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medsegdiff.compare.analysis.analyses import compared
from medsegdiff.compare.analysis.claims import (
    FIRST_STEP,
    METRIC,
    NOISE,
    NOT_MEASURED,
    PROBE_T,
    UNDECIDED,
    Claim,
    claims_of,
    verdict,
)
from medsegdiff.compare.analysis.frames import (
    SAMPLING,
    groups,
    labelled,
    matches,
    ordinary,
    paired_values,
    primary_entries,
    results,
)
from medsegdiff.compare.analysis.statistics import holm

Side = tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]
"""What tells a comparison apart, the rows of the method, and those of what it is held against."""


def judge(cases: pd.DataFrame, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Every claim with its verdict and what that rests on.

    Args:
        cases: the table of cases.
        runs: the table of runs, for why a method is missing.

    Returns:
        For each claim "name", "statement", "source", "rule", "verdict", "reason" (why it was not measured or decides
        nothing) and "comparisons". In these are "of", "against", `SAMPLING`, paired columns, "p_t_holm",
        "p_wilcoxon_holm", "trainings" (the mean difference of each fold and seed), "other_samplings" (the same in other
        ways of sampling, beside the verdict), and for two methods "against_sampling", how the other was sampled.
    """
    found = [(claim, [_evidence(cases, claim, against) for against in claim.against]) for claim in claims_of(cases)]
    family = [evidence for _, comparisons in found for evidence in comparisons if evidence]
    for test in ("p_t", "p_wilcoxon"):
        for evidence, corrected in zip(family, holm([evidence[test] for evidence in family]), strict=True):
            evidence[f"{test}_holm"] = corrected
    judged = []
    for claim, comparisons in found:
        measured = [evidence for evidence in comparisons if evidence]
        if len(measured) < len(comparisons):
            found_to_be, reason = NOT_MEASURED, _missing(cases, runs, claim)
        elif reason := "; ".join(filter(None, map(_unequal, measured))):
            found_to_be = UNDECIDED
        else:
            found_to_be = verdict(claim.rule, measured)
        judged.append(
            {
                **{key: getattr(claim, key) for key in ("name", "statement", "source", "rule")},
                "verdict": found_to_be,
                "reason": reason,
                "comparisons": measured,
            }
        )
    return judged


def _evidence(cases: pd.DataFrame, claim: Claim, against: str) -> dict[str, Any]:
    """One comparison, with the same in other ways of sampling; empty where it was not measured."""
    if against == NOISE:
        sides = _probe_sides(cases, claim.what)
    elif against == FIRST_STEP:
        sides = _step_sides(cases, claim.what)
    else:
        sides = _method_sides(cases, claim.what, against)
    found = [
        ({**keys, **line}, rows, reference)
        for keys, rows, reference in sides
        for line in compared({}, rows, reference, [METRIC])
    ]
    if not found:
        return {}
    evidence, rows, reference = found[0]
    return {
        "of": claim.what,
        "against": against,
        **evidence,
        "trainings": _trainings(rows, reference),
        "other_samplings": [other for other, _, _ in found[1:]],
    }


def _unequal(evidence: dict[str, Any]) -> str:
    """Why a comparison decides nothing: a mean of more draws is better by itself. A single pass has no draws."""
    other = evidence.get("against_sampling")
    if other is None or not (evidence["sampler"] and other["sampler"]) or evidence["draws"] == other["draws"]:
        return ""
    ours, theirs = evidence["draws"], other["draws"]
    return (
        f"{evidence['of']} is the mean of {ours} draws and {evidence['against']} of {theirs}, so this decides nothing"
    )


def _probe_sides(cases: pd.DataFrame, label: str) -> list[Side]:
    probes = labelled(cases[cases["probe"] != ""], label)
    times = sorted(probes["t"].dropna().unique(), key=lambda t: (abs(t - PROBE_T), t))
    at = {t: probes[probes["t"] == t] for t in times}
    return [({"t": t}, rows[rows["probe"] == "truth"], rows[rows["probe"] == "noise"]) for t, rows in at.items()]


def _step_sides(cases: pd.DataFrame, label: str) -> list[Side]:
    rows = labelled(ordinary(cases), label)
    samplings = _primary_first(rows[rows["steps"] > 1], _primary(cases, label))
    return [(keys, group[group["step"] == keys["steps"]], group[group["step"] == 1]) for keys, group in samplings]


def _method_sides(cases: pd.DataFrame, label: str, against: str) -> list[Side]:
    """First each by its primary way of sampling, then both by every other one that both have.

    The first says the other's as "against_sampling".
    """
    rows, others = labelled(results(cases), label), labelled(results(cases), against)
    if rows.empty or others.empty:
        return []
    theirs = _primary(cases, against)
    (keys, mine), *rest = _primary_first(rows, _primary(cases, label))
    first = {**keys, "against_sampling": theirs}, mine, matches(others, theirs)
    return [first, *((keys, group, matches(others, keys)) for keys, group in rest)]


def _primary(cases: pd.DataFrame, label: str) -> dict[str, Any]:
    entries = labelled(primary_entries(cases), label)
    return {} if entries.empty else entries.iloc[0][SAMPLING].to_dict()


def _primary_first(rows: pd.DataFrame, primary: dict[str, Any]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    return sorted(groups(rows, SAMPLING), key=lambda found: found[0] != primary)


def _trainings(rows: pd.DataFrame, reference: pd.DataFrame) -> list[dict[str, Any]]:
    """The mean difference of each fold and seed of training on its own."""
    one, other = paired_values(rows, reference, ["fold", "seed"])
    means = (one - other)[METRIC].groupby(level=["fold", "seed"], sort=True, observed=True).mean()
    return means.rename("difference").reset_index().to_dict("records")


def _missing(cases: pd.DataFrame, runs: pd.DataFrame, claim: Claim) -> str:
    """Why a claim was not measured."""
    labels = [label for label in (claim.what, *claim.against) if label not in (FIRST_STEP, NOISE)]
    failed = runs[runs["status"] == "failed"] if "status" in runs else runs
    said = []
    for label in labels:
        if not labelled(results(cases), label).empty:
            continue
        why = labelled(failed, label)["reason"].tolist() if len(failed) else []
        said.append(f"{label} failed: {why[0]}" if why else f"{label} is not in the study")
    special = {FIRST_STEP: "the first step was not measured", NOISE: "x_t from truth and noise was not measured"}
    return "; ".join(said) or special.get(claim.against[0], "the methods share no case, fold and seed")
