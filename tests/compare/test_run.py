"""Whole studies, their tasks replaced by quick ones: what is done, what is kept, and what a failure stops."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from types import SimpleNamespace

import pandas as pd
import pytest
from filelock import FileLock

from medsegdiff.compare import tasks
from medsegdiff.compare.engines import InProcess
from medsegdiff.compare.evaluate import CaseViews
from medsegdiff.compare.run import RETRIES, StudyRun
from medsegdiff.compare.runs import FAILED, read_json
from medsegdiff.data.splits import write_json
from medsegdiff.errors import SpecError

METRICS = {
    "label": 1,
    "class_name": "anterior",
    "status": "present",
    "hd95": 1.0,
    "nsd": 1.0,
    "iou": 0.5,
    "precision": 0.5,
    "recall": 0.5,
    "prediction_voxels": 3,
    "truth_voxels": 4,
    "prediction_volume": 3.0,
    "truth_volume": 4.0,
}
DICE = {"a": 0.9, "b": 0.4, "c": 0.6, "d": 0.8, "e": 0.5}


class Dying(InProcess):
    """An engine whose worker dies of the first few tasks."""

    def __init__(self, deaths):
        self.deaths = deaths

    def submit(self, function, *arguments):
        if self.deaths:
            self.deaths -= 1
            future = Future()
            future.set_exception(ConnectionError("gone"))
            return future
        return super().submit(function, *arguments)

    def is_death(self, error):
        return isinstance(error, ConnectionError)


@pytest.fixture
def done(monkeypatch, pretend_trained):
    """Replaces training, measuring, pictures and the report; holds what was done, and `fail` whom to fail and how."""
    log: list[tuple[str, str]] = []
    fail: dict[tuple[str, str], str | Exception] = {}

    def act(kind, run):
        log.append((kind, run.method))
        wrong = fail.get((kind, run.method))
        if isinstance(wrong, Exception):
            raise wrong
        return wrong

    def train(plan, run, bars):
        if reason := act("train", run):
            run.prepare_folder()
            run.write_record(FAILED, {"reason": reason})
            return False
        pretend_trained(run)
        return True

    def measure(plan, run, bars):
        act("measure", run)
        run.prepare_folder()
        for what in plan.missing(run):
            cases = [
                {"step": getattr(what, "steps", 1), "probe": "", "t": None, "case": case, "dice": dice, **METRICS}
                for case, dice in DICE.items()
            ]
            write_json(plan.evaluation_file(run, what), {"cases": cases, "seconds_per_case": 1.0})

    def picture(plan, run, chosen, folder):
        import numpy as np

        act("picture", run)
        for one in chosen:
            label = np.zeros((2, 2), int)
            views = CaseViews(label, label, label, np.full((2, 2, 2), 0.5), label[None], (1.0, 1.0))
            tasks.write_snapshot(tasks.snapshot_path(folder, run, one), views, run, one)

    monkeypatch.setattr(tasks, "train", train)
    monkeypatch.setattr(tasks, "measure", measure)
    monkeypatch.setattr(tasks, "picture", picture)
    report = SimpleNamespace(write_report=lambda folder: act("report", SimpleNamespace(method="")) or folder)
    monkeypatch.setitem(sys.modules, "medsegdiff.compare.analysis.report", report)
    return SimpleNamespace(log=log, fail=fail)


def study(plan, engine=None, said=None):
    return StudyRun(plan, engine or InProcess(), say=lambda line: said.append(line) if said is not None else None).do()


def test_runs_are_trained_and_measured_one_by_one_and_ensembles_last(plan_study, done):
    plan = plan_study(ensembles=[["supervised", "diffusion"]])
    assert study(plan) == {}
    assert done.log == [
        *(("train", "supervised"), ("measure", "supervised"), ("train", "diffusion"), ("measure", "diffusion")),
        *(("measure", "supervised+diffusion"), ("report", "")),
    ]
    assert (plan.folder / "study.yaml").read_text() == plan.study.text
    assert len(pd.read_csv(plan.folder / "cases.csv")) == 15


def test_what_is_done_is_not_done_again(plan_study, done):
    study(plan_study())
    done.log.clear()
    study(plan_study())
    assert done.log == [("report", "")]

    done.log.clear()
    study(plan_study(evaluation={"samplers": ["ddpm", "ddim"], "steps": [2]}))
    assert done.log == [("measure", "diffusion"), ("report", "")]


def test_a_method_that_fails_stops_itself_and_its_ensembles_only(plan_study, done):
    done.fail["train", "diffusion"] = "loss is nan"
    changes = {
        "methods": ["supervised", "diffusion", "recycling"],
        "ensembles": [["supervised", "diffusion"], ["supervised", "recycling"]],
    }
    plan, said = plan_study(**changes), []
    failed = study(plan, said=said)

    assert failed == {
        "diffusion, seed 0": "loss is nan",
        "supervised+diffusion, seed 0": "its member diffusion, seed 0 failed: loss is nan",
    }
    assert any("loss is nan" in line for line in said)
    runs = pd.read_csv(plan.folder / "runs.csv").set_index("method")
    assert runs["status"].to_dict() == {
        "supervised": "done",
        "diffusion": "failed",
        "recycling": "done",
        "supervised+diffusion": "failed",
        "supervised+recycling": "done",
    }

    done.fail.clear()
    done.log.clear()
    assert study(plan_study(**changes)) == {}, "another call tries again"
    assert done.log == [
        *(("train", "diffusion"), ("measure", "diffusion"), ("measure", "supervised+diffusion"), ("report", "")),
    ]


def test_a_measurement_that_fails_says_so_and_keeps_a_traceback(plan_study, done):
    done.fail["measure", "diffusion"] = MemoryError("too\nlarge")
    plan = plan_study(methods=["diffusion", "recycling"])
    assert study(plan) == {"diffusion, seed 0": "measure: MemoryError: too large"}
    assert "Traceback" in plan.runs[0].log.read_text()
    assert ("measure", "recycling") in done.log


def test_a_task_whose_worker_dies_is_done_again(plan_study, done):
    plan = plan_study(methods=["supervised"])
    assert study(plan, Dying(RETRIES)) == {}
    assert done.log == [("train", "supervised"), ("measure", "supervised"), ("report", "")]


def test_a_task_that_kills_every_worker_fails(plan_study, done):
    plan = plan_study(methods=["supervised"])
    [reason] = study(plan, Dying(RETRIES + 1)).values()
    assert reason.startswith(f"train: {RETRIES + 1} workers died of it")


def test_best_median_and_worst_are_kept_for_pictures(plan_study, done):
    plan = plan_study(pictures=3)
    study(plan)
    files = sorted(path.name for path in (plan.folder / "pictures").glob("*.npz"))
    hashes = sorted(run.hash for run in plan.runs)
    cases = (("0000", "a"), ("0002", "c"), ("0004", "b"))
    assert files == [f"{place}-{case}-{key}.npz" for place, case in cases for key in hashes]

    done.log.clear()
    study(plan_study(pictures=3))
    assert done.log == [("report", "")]
    study(plan_study(pictures=1))
    assert {path.name.split("-")[1] for path in (plan.folder / "pictures").glob("*.npz")} == {"c"}


def test_two_studies_do_not_write_into_one_folder(plan_study, done):
    plan = plan_study()
    plan.folder.mkdir()
    with FileLock(plan.folder / ".lock"), pytest.raises(SpecError, match="another study is under way there"):
        study(plan)
    assert done.log == []


def test_a_half_written_evaluation_is_none(plan_study, done, tmp_path):
    plan = plan_study(methods=["supervised"])
    study(plan)
    path = plan.evaluation_file(plan.runs[0], plan.runs[0].samplings[0])
    assert read_json(path)["cases"]
    path.rename(path.with_name(f".{path.name}.123"))  # as a killed process leaves it
    done.log.clear()
    study(plan_study(methods=["supervised"]))
    assert done.log == [("measure", "supervised"), ("report", "")]
