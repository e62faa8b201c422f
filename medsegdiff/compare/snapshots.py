"""The cases that pictures show: the best, the median and the worst one, as every method segments them."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsegdiff.compare.evaluate import CaseViews
from medsegdiff.compare.plan import Plan
from medsegdiff.compare.runs import Run, read_json
from medsegdiff.compare.uncertainty import entropy_map
from medsegdiff.files import written_whole


@dataclass(frozen=True)
class Chosen:
    """A case to show.

    Attributes:
        case: its name.
        rank: "best", "median", "worst", or its place such as "12 of 40".
        place: from 0 for the best, for the names of files.
    """

    case: str
    rank: str
    place: int


def choose_cases(plan: Plan) -> list[Chosen]:
    """Cases from the best to the worst, at equal distances in the order of their mean Dice over classes.

    Judged by the first diffusion method that was measured, in its first sampling; by another where there is none. Cases
    of which no Dice is defined are left out.
    """
    run = reference_run(plan)
    if run is None or not plan.study.pictures:
        return []
    scores: dict[str, list[float]] = defaultdict(list)
    for row in read_json(plan.evaluation_file(run, run.samplings[0]))["cases"]:
        if row["step"] == run.samplings[0].steps and not math.isnan(row["dice"]):
            scores[row["case"]].append(row["dice"])
    order = sorted(scores, key=lambda case: (-sum(scores[case]) / len(scores[case]), case))
    last, count = len(order) - 1, min(plan.study.pictures, len(order))
    places = [last // 2] if count == 1 else [k * last // (count - 1) for k in range(count)]
    ranks = {last // 2: "median", last: "worst", 0: "best"} if count > 1 else {}
    return [
        Chosen(order[place], ranks.get(place, "median" if count == 1 else f"{place + 1} of {len(order)}"), place)
        for place in places
        if order
    ]


def reference_run(plan: Plan) -> Run | None:
    """The run by which cases are chosen; None where nothing is measured."""
    measured = [run for run in plan.runs if plan.evaluation_file(run, run.samplings[0]).is_file()]
    sampling = [run for run in measured if run.samplings[0].sampler and not run.members]
    return next(iter([*sampling, *measured]), None)


def runs_to_show(plan: Plan) -> list[Run]:
    """One run a method: those of the fold and seed of the reference."""
    reference = reference_run(plan)
    return [
        run
        for run in plan.runs
        if reference is not None
        and (run.fold, run.seed) == (reference.fold, reference.seed)
        and plan.evaluation_file(run, run.samplings[0]).is_file()
    ]


def snapshot_path(folder: Path, run: Run, chosen: Chosen) -> Path:
    """Where a case as a run segments it is kept."""
    return folder / f"{chosen.place:04d}-{chosen.case}-{run.hash}.npz"


def write_snapshot(path: Path, views: CaseViews, run: Run, chosen: Chosen) -> None:
    """Keep what pictures need of a case.

    The file holds `image`, `truth`, `prediction`, `entropy` (all (*S)), `steps` (N, *S), the label map after each
    sampling step, `spacing` in mm, and the texts `method`, `options`, `case` and `rank`.

    Raises:
        DataError: it cannot be written.
    """
    with written_whole(path, advice="free space, or choose another --output") as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            image=views.image.astype(np.float32),
            truth=views.truth.astype(np.uint8),
            prediction=views.prediction.astype(np.uint8),
            entropy=entropy_map(views.probabilities).astype(np.float32),
            steps=views.steps.astype(np.uint8),
            spacing=np.array(views.spacing, np.float32),
            method=np.array(run.method),
            options=np.array(run.options),
            case=np.array(chosen.case),
            rank=np.array(chosen.rank),
        )
