"""Which cases are shown."""

from __future__ import annotations

import pytest

from medsegdiff.compare.snapshots import choose_cases
from medsegdiff.data.splits import write_json


@pytest.mark.parametrize(
    ("pictures", "cases", "expected"),
    [
        (3, 4, [("0", "best"), ("1", "median"), ("3", "worst")]),
        (3, 5, [("0", "best"), ("2", "median"), ("4", "worst")]),
        (1, 4, [("1", "median")]),
        (2, 9, [("0", "best"), ("8", "worst")]),
        (4, 7, [("0", "best"), ("2", "3 of 7"), ("4", "5 of 7"), ("6", "worst")]),
        (3, 1, [("0", "median")]),
        (0, 4, []),
    ],
)
def test_from_the_best_to_the_worst(plan_study, pretend_trained, pictures, cases, expected):
    plan = plan_study(pictures=pictures, methods=["diffusion"])
    [run] = plan.runs
    pretend_trained(run)
    rows = [
        {"case": str(case), "step": step, "dice": 0.9 - 0.1 * case if step == 2 else 0.1 * case}
        for case in range(cases)
        for step in (1, 2)
    ]
    write_json(plan.evaluation_file(run, run.samplings[0]), {"cases": rows})
    assert [(one.case, one.rank) for one in choose_cases(plan)] == expected
