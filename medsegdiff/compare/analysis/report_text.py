"""How numbers and verdicts read in a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from medsegdiff.compare.analysis.claims import FIRST_STEP, NOISE
from medsegdiff.compare.analysis.drawing import INDEXED, label_of, sampling_label
from medsegdiff.compare.analysis.frames import parts_of

MISSING = "–"
_DIGITS = {"hd95": 2}
_SPACE = "\N{NO-BREAK SPACE}"


def number(value: Any, metric: str = "dice", *, sign: bool = False) -> str:
    """A metric, such as 0.881 or 3.14 mm's number; a dash for what is undefined."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    return f"{float(value):{'+' if sign else ''}.{_DIGITS.get(metric, 3)}f}".replace("-", "−")


def with_interval(
    row: Mapping[str, Any], *, value: str = "mean", ends: str = "ci_low ci_high", sign: bool = False
) -> str:
    """A number and its interval, such as "0.881 [0.875, 0.888]"."""
    metric = row.get("metric", "dice")
    low, high = (number(row[end], metric, sign=sign) for end in ends.split())
    middle = number(row[value], metric, sign=sign)
    return middle if MISSING in (low, high) else f"{middle} [{low}, {high}]"


def p_value(p: float) -> str:
    """A p-value after the letter, such as "= .012" or "< .001"."""
    if p is None or not math.isfinite(p):
        return "not defined"
    return f"<{_SPACE}.001" if p < 0.001 else f"={_SPACE}" + f"{p:.3f}".removeprefix("0")


def percent(share: float) -> str:
    """A share in whole percent."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.0f} %"


def count_methods(methods: Sequence[Mapping[str, Any]]) -> str:
    """How many methods, and how many ensembles of them, a study compares, such as "8 methods and 1 ensemble"."""
    ensembles = sum(bool(parts_of(one["method"])) for one in methods)
    counts = [(len(methods) - ensembles, "method"), (ensembles, "ensemble")]
    return " and ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in counts if count) or "No method"


def held_against(comparison: Mapping[str, Any]) -> str:
    """Which difference a comparison of a claim is, such as "recycling − diffusion"."""
    what, against = _name(comparison["of"]), _name(comparison["against"])
    if comparison["against"] == FIRST_STEP:
        what += ", last step"
    if comparison["against"] == NOISE:
        what += " from the x_t of the truth"
    return f"{what} − {against}"


def what_was_found(comparison: Mapping[str, Any]) -> str:
    """One comparison of a claim as a sentence."""
    said = (
        f"{held_against(comparison)}: {number(comparison['difference'], sign=True)} Dice "
        f"(95 % CI {number(comparison['ci_low'], sign=True)} to {number(comparison['ci_high'], sign=True)}; "
        f"t-test p{_SPACE}{p_value(comparison['p_t_holm'])}, "
        f"Wilcoxon p{_SPACE}{p_value(comparison['p_wilcoxon_holm'])}, Holm), "
        f"better in {percent(comparison['improved'])} and worse in {percent(comparison['worse'])} of "
        f"{comparison['n']} cases"
    )
    return said + (f", {comparison['undefined']} more undefined." if comparison["undefined"] else ".")


def beside(comparison: Mapping[str, Any]) -> str:
    """What stands beside a comparison: how it was sampled, each training's difference, other ways of sampling."""
    said = []
    if "t" in comparison:
        said.append(f"one prediction at t = {comparison['t']:g}")
    elif comparison.get("sampler"):
        said.append(sampling_label(comparison))
    trainings = comparison["trainings"]
    if len(trainings) > 1:
        each = ", ".join(number(training["difference"], sign=True) for training in trainings)
        said.append(f"{len(trainings)} trainings: {each}")
    else:
        said.append("one training of each")
    others = []
    for other in comparison["other_samplings"]:
        where = f"t = {other['t']:g}" if "t" in other else sampling_label(other)
        others.append(f"{where}: {with_interval(other, value='difference', sign=True)}")
    return "; ".join(said) + (". Elsewhere: " + "; ".join(others) if others else "") + "."


def interval_picture(comparison: Mapping[str, Any], *, width: int = 220) -> dict[str, Any] | None:
    """Where the marks of a small picture of the interval go, in pixels; None without an interval."""
    low, high, middle = (comparison[key] for key in ("ci_low", "ci_high", "difference"))
    if not all(math.isfinite(value) for value in (low, high, middle)):
        return None
    limit = max(abs(low), abs(high), 0.01) * 1.2

    def place(value: float) -> float:
        return round(width / 2 * (1 + value / limit), 1)

    return {
        "width": width,
        "zero": place(0),
        "low": place(low),
        "high": place(high),
        "middle": place(middle),
        "left": number(-limit, sign=True),
        "right": number(limit, sign=True),
    }


def entry_cells(row: Mapping[str, Any]) -> list[str]:
    """The method and how it was sampled, as two cells of a table."""
    return [label_of(row), sampling_label(row)]


def with_indices(text: str) -> Markup:
    """A text for HTML, with the indices of x_T and x_(t+1) below the line."""
    return Markup(INDEXED.sub(lambda found: f"x<sub>{found[1] or found[2]}</sub>", str(escape(text))))


def _name(label: str) -> str:
    """What readers call a method or variant of this label."""
    return label_of({"method": label})
