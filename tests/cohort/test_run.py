from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from medsegdiff.cohort.case import Case
from medsegdiff.cohort.engine import DONE, LOST, STARTED, Event
from medsegdiff.cohort.manifest import Manifest
from medsegdiff.cohort.run import CohortRun
from medsegdiff.files import temporary_name

NAMES = ("a", "b", "c")


def _status(folder):
    return {name: record["status"] for name, record in Manifest(folder).read().items()}


def _finish(run, *, resume):
    return list(run.work(run.choose(resume=resume)))


def test_every_case_is_started_and_done_in_the_manifest(make_run, make_cases, tmp_path):
    run = make_run(make_cases(*NAMES))
    assert [entry["status"] for entry in _finish(run, resume=False)] == ["done"] * 3
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [(line["case"], line["status"]) for line in lines] == [
        (name, status) for name in NAMES for status in ("started", "done")
    ]
    done = lines[1]
    assert done["input"] == "a.mha"
    assert done["outputs"] == {"label": "a.nii.gz"}
    assert (done["engine"], done["attempt"], done["stage_seconds"]["sample"]) == ("in-process", 1, 0.5)
    assert done["worker"].endswith(f":{os.getpid()}")


def test_a_case_that_fails_among_many_leaves_the_others_done(make_run, make_cases, attempts):
    cases = make_cases(*(f"case_{number:02}" for number in range(100)))
    cases[41].path.write_text("unreadable")
    run = make_run(cases)
    told = [entry["error"] for entry in _finish(run, resume=False) if "error" in entry]
    failed = [(entry["case"], entry["error"]) for entry in run.entries() if entry["status"] != "done"]
    # Whoever sits before it sees the path, the report does not have the folders.
    assert (told, failed) == ([f"{cases[41].path}: cannot be read"], [("case_41", "case_41.mha: cannot be read")])
    assert str(cases[41].path.parent) not in (cases[41].folder / "manifest.jsonl").read_text()
    assert len(run.entries()) == 100 and len(attempts()) == 100
    assert len(list(cases[0].folder.glob("*.nii.gz"))) == 99


def _other_settings(cases, options):
    options["seed"] = 1


def _other_image(cases, options):
    cases[1].path.write_text("image ")


def _removed_result(cases, options):
    (cases[1].folder / "b.nii.gz").unlink()


def _failure(cases, options):
    Manifest(cases[0].folder).append({"case": "b", "status": "failed", "error": "…"})


def _interruption(cases, options):
    Manifest(cases[0].folder).append({"case": "b", "status": "started", "worker": "host:1"})


def _loss(cases, options):
    Manifest(cases[0].folder).append({"case": "b", "status": "lost", "worker": "host:1"})


def _torn_manifest(cases, options):
    path = Manifest(cases[0].folder).path
    path.write_bytes(path.read_bytes()[:-20])


def _nothing(cases, options):
    pass


RESUMED = {
    "nothing": (_nothing, [], "3 of 3 done already; to do: none"),
    "other settings": (_other_settings, ["a", "b", "c"], "0 of 3 done already; to do: 3 with other settings"),
    "other image": (_other_image, ["b"], "2 of 3 done already; to do: 1 with another image"),
    "removed result": (_removed_result, ["b"], "2 of 3 done already; to do: 1 without all results"),
    "failure": (_failure, ["b"], "2 of 3 done already; to do: 1 failed before"),
    "interruption": (_interruption, ["b"], "2 of 3 done already; to do: 1 interrupted"),
    "loss": (_loss, ["b"], "2 of 3 done already; to do: 1 interrupted"),
    "torn manifest": (_torn_manifest, ["c"], "2 of 3 done already; to do: 1 interrupted"),
}


@pytest.mark.parametrize(("change", "again", "line"), RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_does_what_is_not_done_as_it_would_be(make_run, make_cases, attempts, change, again, line):
    cases, options = make_cases(*NAMES), {}
    _finish(make_run(cases), resume=False)
    change(cases, options)
    run = make_run(cases, **options)
    entries = _finish(run, resume=True)
    assert attempts() == [*NAMES, *again]
    assert run.said == [f"resume: {line}"]
    assert [Path(entry["input"]).name[0] for entry in entries] == again
    assert run.resumed == 3 - len(again)
    # The report is one of the whole cohort, in its order.
    assert [(Path(entry["input"]).name[0], entry.get("resumed", False)) for entry in run.entries()] == [
        (name, name not in again) for name in NAMES
    ]
    assert {entry["status"] for entry in run.entries()} == {"done"}


def test_an_image_of_the_same_name_elsewhere_is_another(make_run, make_cases, attempts, tmp_path):
    cases = make_cases(*NAMES)
    _finish(make_run(cases), resume=False)
    moved = (tmp_path / "in").rename(tmp_path / "moved")
    cases = [Case(case.name, moved / case.path.name, case.folder) for case in cases]
    _finish(make_run(cases), resume=True)
    assert len(attempts()) == 6


def test_further_cases_are_added_to_those_that_are_done(make_run, make_cases, attempts):
    _finish(make_run(make_cases("a")), resume=False)
    run = make_run(make_cases("a", "b"), seed=0)
    # Writing the image of `a` again has changed it.
    _finish(run, resume=True)
    assert run.said == ["resume: 0 of 2 done already; to do: 1 with another image, 1 new"]
    assert attempts() == ["a", "a", "b"]


def test_without_resuming_all_is_done_again(make_run, make_cases, attempts):
    cases = make_cases(*NAMES)
    for _ in range(2):
        run = make_run(cases)
        assert len(_finish(run, resume=False)) == 3 and run.said == []
    assert attempts() == [*NAMES, *NAMES]


def test_a_run_with_other_settings_that_stops_is_not_taken_for_the_first(make_run, make_cases, attempts):
    """What the second has begun to replace is no result of the first, however the second ends."""
    cases = make_cases(*NAMES)
    _finish(make_run(cases), resume=False)
    second = make_run(cases, seed=1)
    events = second.engine.work(second.choose(resume=False))
    second.engine.work = lambda cases: iter([next(events)])  # it is killed after the first event
    list(second.work(cases))
    run = make_run(cases)
    _finish(run, resume=True)
    assert run.said == ["resume: 2 of 3 done already; to do: 1 interrupted"]
    assert attempts() == [*NAMES, "a"]


def _half_a_result(path, host, process, monkeypatch, *, earlier):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr(os, "getpid", lambda: process)
    half = path.with_name(f".{path.name}.{process}") if earlier else temporary_name(path)
    half.touch()
    return half


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "of an earlier version"])
def test_half_a_result_of_an_interrupted_run_is_removed(make_run, make_cases, monkeypatch, earlier):
    cases = make_cases("a")
    half, foreign, elsewhere = (
        _half_a_result(cases[0].folder / "a.nii.gz", host, process, monkeypatch, earlier=earlier)
        for host, process in (("host", 7), ("host", 8), ("other", 77 if earlier else 7))
    )
    Manifest(cases[0].folder).append({"case": "a", "status": "started", "worker": "host:7"})
    make_run(cases).choose(resume=True)
    assert not half.exists() and foreign.exists() and elsewhere.exists()


def test_an_image_that_changes_while_it_is_segmented_is_done_again(make_run, make_cases):
    cases = make_cases("a")
    run = make_run(cases)
    work = run.engine.work

    def change(cases):
        for event in work(cases):
            if event.status == DONE:
                cases[0].path.write_text("changed")
            yield event

    run.engine.work = change
    _finish(run, resume=False)
    again = make_run(cases)
    assert again.choose(resume=True) == cases
    assert again.said == ["resume: 0 of 1 done already; to do: 1 with another image"]


class LosingEngine:
    """Loses the first case once; the peaks of its two workers differ."""

    name, workers = "losing", 2

    def start(self, most):
        return {"members": []}

    def work(self, cases):
        case = cases[0]
        yield Event(case, STARTED, "host:1")
        (case.folder / f".{case.name}.nii.gz.1").touch()
        yield Event(case, LOST, "host:1", details={"error": "the worker died"})
        for attempt, worker, peaks in ((2, "host:2", {"process": 7.0, "gpu": 1.0}), (3, "host:3", {"process": 5.0})):
            yield Event(case, STARTED, worker, attempt)
            details = {"outputs": {"label": "a.nii.gz"}, "peak_memory_mib": peaks}
            yield Event(case, DONE, worker, attempt, details)

    def close(self):
        pass


def test_a_lost_case_is_counted_said_and_cleaned_up(make_cases, fake_loader, tmp_path):
    fake_loader()
    cases, said = make_cases("a"), []
    run = CohortRun(cases, LosingEngine(), bundle=tmp_path / "bundle", say=said.append)
    run.load()
    steps = run.work(cases)
    next(steps)
    assert (run.retries, said) == (1, ["warning: the worker died; the case is done again"])
    assert not (cases[0].folder / ".a.nii.gz.1").exists()
    assert run.entries()[0]["attempt"] == 2
    list(steps)
    assert run.peak_memory_mib() == {"process": 7.0, "gpu": 1.0}


def test_a_defect_ends_a_run_in_process_and_what_was_done_is_known(make_run, make_cases, tmp_path):
    cases = make_cases(*NAMES)
    cases[1].path.write_text("defect")
    run = make_run(cases)
    with pytest.raises(ZeroDivisionError):
        _finish(run, resume=False)
    assert [entry["status"] for entry in run.entries()] == ["done"]
    assert _status(tmp_path / "out") == {"a": "done", "b": "started"}


def test_nothing_of_a_case_begins_before_it_is_written_down(make_run, make_cases, attempts):
    cases = make_cases("a")
    events = make_run(cases).engine.work(cases)
    assert next(events).status == STARTED and attempts() == []
    assert next(events).status == DONE and attempts() == ["a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be killed")
def test_a_killed_process_goes_on_where_it_was(make_run, make_cases, attempts):
    cases = make_cases(*NAMES)
    cases[1].path.write_text("kill once")
    run = make_run(cases)
    todo = run.choose(resume=False)
    process = os.fork()
    if process == 0:
        try:
            list(run.work(todo))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert _status(cases[0].folder) == {"a": "done", "b": "started"}
    again = make_run(cases)
    assert len(_finish(again, resume=True)) == 2
    assert again.said == ["resume: 1 of 3 done already; to do: 1 interrupted, 1 new"]
    assert attempts() == ["a", "b", "b", "c"]
