"""The papers' claims, and whether they hold here.

Every claim is about mean foreground Dice and rests on one or two paired comparisons over cases, each method by its
primary way of sampling. CI is the 95 % bootstrap interval of the mean difference, p that of the paired t-test after
Holm's correction over all comparisons of all claims. A difference is *shown* where CI leaves out 0 and p < .05.

=========== ============================== =========================================== ===========================
rule        holds                          does not hold                               undecided
=========== ============================== =========================================== ===========================
better      shown to be above 0            shown to be below 0                         otherwise
declines    shown to be below 0            shown to be above 0                         otherwise
keeps       CI above −`DECLINE_MARGIN`     shown to be below 0, however little         otherwise
on par      CI within ±`PAR_MARGIN`        shown to differ, and CI leaves the margins  otherwise
=========== ============================== =========================================== ===========================

Two diffusion methods that were measured with different numbers of draws are undecided whatever the difference, since a
mean of more draws is better by itself. A claim of two comparisons holds where both hold, and does not where one does
not. "Undecided" says that these cases do not tell, not that there is no difference. The interval is over cases: with
one training a method it says nothing about another training, which is why the differences of all trainings stand beside
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medsegdiff.compare.analysis.frames import parts_of

DECLINE_MARGIN = 0.005
PAR_MARGIN = 0.01
PROBE_T = 250
"""Time step of the verdict on x_t, or the nearest one measured; a quarter of the recycling paper's schedule."""
ALPHA = 0.05
METRIC = "dice"

HOLDS, FAILS, UNDECIDED, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"

FIRST_STEP, NOISE = "its first step", "pure noise"
"""What a method is held against where that is not another method."""
_FU = "Fu et al. 2023"


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper that a study can test.

    Attributes:
        name: for files.
        statement: for readers.
        source: which paper says so.
        rule: how its verdict is found, see the module.
        what: label of the method.
        against: labels of what it is held against, or `FIRST_STEP` or `NOISE`.
    """

    name: str
    statement: str
    source: str
    rule: str
    what: str
    against: tuple[str, ...]


_CLAIMS = (
    Claim(
        "recycling_beats_diffusion",
        "Recycling beats standard diffusion",
        f"{_FU}, Table 1",
        "better",
        "recycling",
        ("diffusion",),
    ),
    Claim(
        "diffusion_declines",
        "Standard diffusion gets worse over its sampling steps",
        f"{_FU}, Figures 3 and 8",
        "declines",
        "diffusion",
        (FIRST_STEP,),
    ),
    Claim(
        "recycling_keeps",
        "Recycling does not get worse over its sampling steps",
        f"{_FU}, Figures 3 and 8",
        "keeps",
        "recycling",
        (FIRST_STEP,),
    ),
    Claim(
        "recycling_on_par",
        "Recycling is on par with the supervised network",
        f"{_FU}, Table 2",
        "on par",
        "recycling",
        ("supervised",),
    ),
    Claim(
        "recycling_beats_self_conditioning",
        "Recycling beats self-conditioning",
        f"{_FU}, Table 1",
        "better",
        "recycling",
        ("self_conditioning",),
    ),
    Claim(
        "recycling_beats_self_conditioning_next",
        "Recycling beats self-conditioning from x_(t+1)",
        f"{_FU}, Table 1",
        "better",
        "recycling",
        ("self_conditioning_next",),
    ),
    Claim(
        "recycling_beats_recycling_next",
        "Recycling from x_T beats recycling from x_(t+1)",
        f"{_FU}, Table 1",
        "better",
        "recycling",
        ("recycling_next",),
    ),
    Claim(
        "diffusion_uses_x_t",
        "Standard diffusion uses the truth that is left in x_t",
        f"{_FU}, Section 4 and Figure 7",
        "better",
        "diffusion",
        (NOISE,),
    ),
    Claim(
        "cdal_beats_segdiff",
        "cDAL beats SegDiff",
        "Hejrati et al. 2024, Tables 1 and 2",
        "better",
        "cdal",
        ("segdiff",),
    ),
)


def claims_of(cases: pd.DataFrame) -> list[Claim]:
    """The claims that are asked of a study: always the same, and one for each of its ensembles."""
    claims = list(_CLAIMS)
    for name in sorted({name for name in cases["method"].unique() if parts_of(name)}):
        parts = parts_of(name)
        claims.append(
            Claim(
                f"ensemble_beats_parts:{name}",
                f"The ensemble of {' and '.join(parts)} beats each of them",
                f"{_FU}, Table 2 and Figure 5",
                "better",
                name,
                tuple(parts),
            )
        )
    return claims


def verdict(rule: str, comparisons: list[dict[str, Any]]) -> str:
    """The verdict on a claim from its comparisons ("ci_low", "ci_high", "p_t_holm"); see the module."""
    single = [_RULES[rule](c["ci_low"], c["ci_high"], c["p_t_holm"] < ALPHA) for c in comparisons]
    if FAILS in single:
        return FAILS
    return HOLDS if all(one == HOLDS for one in single) else UNDECIDED


def _better(low: float, high: float, significant: bool) -> str:
    if significant and low > 0:
        return HOLDS
    return FAILS if significant and high < 0 else UNDECIDED


def _declines(low: float, high: float, significant: bool) -> str:
    return _better(-high, -low, significant)


def _keeps(low: float, high: float, significant: bool) -> str:
    if significant and high < 0:
        return FAILS
    return HOLDS if low > -DECLINE_MARGIN else UNDECIDED


def _on_par(low: float, high: float, significant: bool) -> str:
    if low > -PAR_MARGIN and high < PAR_MARGIN:
        return HOLDS
    return FAILS if significant and (low > 0 or high < 0) else UNDECIDED


_RULES: dict[str, Callable[[float, float, bool], str]] = {
    "better": _better,
    "declines": _declines,
    "keeps": _keeps,
    "on par": _on_par,
}
