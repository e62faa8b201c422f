"""The tasks of a study, as they run in whatever process: train a run, measure it, sample cases for pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medsegdiff.compare.evaluate import RunEvaluator
from medsegdiff.compare.plan import Plan
from medsegdiff.compare.runs import Run, Sampling
from medsegdiff.compare.snapshots import Chosen, snapshot_path, write_snapshot
from medsegdiff.compare.train import train_run
from medsegdiff.data.splits import write_json


@dataclass(frozen=True, eq=False)
class Task:
    """One step for one run.

    Attributes:
        kind: "train", "measure" or "picture".
        run: of which.
        attempt: 1, and one more whenever its worker has died.
    """

    kind: str
    run: Run
    attempt: int = 1

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind} {self.run.label}"


def train(plan: Plan, run: Run, bars: bool) -> bool:
    """Train a run; whether it is done. See `train_run`."""
    with tqdm(total=1, unit="epoch", leave=False, disable=not bars, desc=run.label) as bar:

        def watch(done: int, of: int) -> None:
            bar.total = of
            bar.n = done
            bar.refresh()

        return train_run(run, device=plan.device, watch=watch)


def measure(plan: Plan, run: Run, bars: bool) -> None:
    """Make the evaluations of a run that are missing, each of which stands when it is complete."""
    missing = plan.missing(run)
    if not missing:
        return
    run.check_folder()
    run.prepare_folder()
    # Loaded once for all that is measured of the same weights.
    missing.sort(key=run.weights_for)
    evaluator, loaded = None, None
    for what in missing:
        if evaluator is None or loaded != run.weights_for(what):
            loaded = run.weights_for(what)
            evaluator = _evaluator(plan, run, loaded)

        def progress(cases: Iterable[Any], name: str = what.name) -> Iterable[Any]:
            return tqdm(cases, unit="case", leave=False, disable=not bars, desc=f"{run.label}, {name}")

        if isinstance(what, Sampling):
            steps = (what.steps,) if run.members else run.evaluation.measured_steps(what.steps)
            found = evaluator.evaluate(what, steps=steps, progress=progress)
        else:
            found = evaluator.probe(what, progress=progress)
        write_json(plan.evaluation_file(run, what), found)


def picture(plan: Plan, run: Run, chosen: Sequence[Chosen], folder: Path) -> None:
    """Sample some cases once more and keep what pictures need."""
    evaluator = _evaluator(plan, run, run.weights_for(run.samplings[0]))
    for one in chosen:
        views = evaluator.views(one.case, run.samplings[0])
        write_snapshot(snapshot_path(folder, run, one), views, run, one)


def _evaluator(plan: Plan, run: Run, weights: Sequence[Path]) -> RunEvaluator:
    training = run.training
    return RunEvaluator(
        plan.study.bundle,
        weights,
        overrides=plan.evaluate_overrides(run),
        train_overrides=None if training is None else {**training.arguments, "resume": False},
        device=plan.device,
    )
