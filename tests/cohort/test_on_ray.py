"""The engine on Ray, with predictors that need no network and one cluster for all tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medsegdiff.cli.main import app
from medsegdiff.cohort.engine import DONE, FAILED, LOST, STARTED
from medsegdiff.cohort.on_ray import RETRIES, OnRay
from medsegdiff.cohort.ray_cluster import RayCluster
from medsegdiff.cohort.run import CohortRun
from medsegdiff.errors import DataError, SpecError

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'medsegdiff[ray]'")
pytestmark = pytest.mark.slow

WORKERS = 2


@pytest.fixture(scope="module")
def _cluster():
    cluster = RayCluster("local", use_gpus=False)
    assert cluster.open(WORKERS, most=WORKERS) == WORKERS
    yield
    cluster.close()
    assert not ray.is_initialized()


@pytest.fixture
def make_engine(_cluster, fake_loader):
    """Makes engines, which are closed in the end; `said` collects what one tells the user."""
    engines = []

    def make(*, workers=WORKERS, must_see=(), **options):
        said = []
        engine = OnRay(fake_loader(**options), workers=workers, must_see=must_see, say=said.append)
        engine.said = said
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()
    assert ray.is_initialized(), "a connection of the program's own is left alone"


def _process(event):
    host, process = event.worker.split(":")
    assert host == socket.gethostname()
    return int(process)


def test_each_case_gets_what_it_deserves_and_the_others_are_untouched(make_engine, make_cases, attempts, tmp_path):
    words = {"b": "kill once", "c": "unreadable", "d": "kill", "e": "defect"}
    cases = make_cases(*"abcdefgh")
    for case in cases:
        case.path.write_text(words.get(case.name, "image"))
    said = []
    run = CohortRun(cases, make_engine(), bundle=tmp_path / "bundle", say=said.append)
    run.load()
    list(run.work(cases))
    entries = dict(zip("abcdefgh", run.entries(), strict=True))
    assert {name for name, entry in entries.items() if entry["status"] == "failed"} == set("cde")
    assert Counter(attempts()) == {**dict.fromkeys("abcefgh", 1), "b": 2, "d": 1 + RETRIES}
    assert (run.retries, entries["b"]["attempt"], len(said)) == (1 + RETRIES, 2, 1 + RETRIES)
    assert all(line.endswith("died; the case is done again") for line in said)
    assert entries["c"]["error"] == "c.mha: cannot be read" and "traceback" not in entries["c"]
    assert f"{1 + RETRIES} workers died of this image" in entries["d"]["error"]
    assert "ZeroDivisionError: defect; this is a defect of the program" in entries["e"]["error"]
    assert "in predict\n" in entries["e"]["traceback"] and "\x1b" not in entries["e"]["traceback"]
    left = sorted(path.name for path in cases[0].folder.iterdir() if not path.name.startswith(".d."))
    assert left == [*(f"{name}.nii.gz" for name in "abfgh"), "manifest.jsonl"]


def test_a_worker_that_is_killed_from_outside_costs_its_case_only(make_engine, make_cases, attempts):
    """While one worker is at a long case, the other does all the rest; then the first is killed."""
    cases = make_cases("long", *"abcde")
    cases[0].path.write_text("wait")
    engine = make_engine()
    engine.start(len(cases))
    first, history = None, []
    for event in engine.work(cases):
        history.append((event.case.name, event.status))
        if event.case.name == "long":
            first = first or event
        elif sum(status == DONE for _, status in history) == 5:
            while "long" not in attempts():  # handed out is not begun yet
                time.sleep(0.02)
            os.kill(_process(first), signal.SIGKILL)
            cases[0].path.write_text("image")
    assert Counter(attempts()) == {"long": 2, **dict.fromkeys("abcde", 1)}
    assert [status for name, status in history if name == "long"] == [STARTED, LOST, STARTED, DONE]
    assert {name for name, _ in history[-3:]} == {"long"}


def test_a_worker_in_which_a_defect_showed_is_replaced(make_engine, make_cases):
    cases = make_cases("a", "b")
    cases[0].path.write_text("defect")
    engine = make_engine(workers=1)
    engine.start(2)
    workers = {event.case.name: event.worker for event in engine.work(cases) if event.status in (DONE, FAILED)}
    assert len(set(workers.values())) == 2


def test_a_user_error_in_loading_comes_out_as_it_was(make_engine):
    with pytest.raises(SpecError) as caught:
        make_engine(error="no such method").start(2)
    assert str(caught.value) == "no such method"


def test_workers_that_die_as_they_load_end_the_run(make_engine):
    with pytest.raises(SpecError, match="no worker is left: each died when it loaded the network"):
        make_engine(die=True, workers=1).start(2)


def test_a_worker_that_does_not_see_the_files_says_so(make_engine, tmp_path):
    with pytest.raises(DataError, match=f"nowhere: a worker on {socket.gethostname()} does not see it; put inputs"):
        make_engine(must_see=[tmp_path, tmp_path / "nowhere"]).start(1)


def test_no_more_workers_start_than_there_are_cases_and_they_share_the_cores(make_engine):
    engine = make_engine(workers=5)
    settings = engine.start(1)
    assert (engine.workers, settings["threads"]) == (1, WORKERS)


def test_a_cluster_with_room_for_one_worker_does_it_all_by_that_one(make_engine, make_cases):
    @ray.remote(num_cpus=1)
    class Tenant:
        def ready(self):
            return True

    tenant = Tenant.remote()
    ray.get(tenant.ready.remote())
    try:
        engine = make_engine()
        engine.start(3)
        events = list(engine.work(make_cases(*"abc")))
    finally:
        ray.kill(tenant)
    assert [event.status for event in events] == [STARTED, DONE] * 3
    assert len({event.worker for event in events}) == 1


def test_waiting_is_said(make_engine, monkeypatch):
    monkeypatch.setattr("medsegdiff.cohort.on_ray._PATIENCE", 0.01)
    engine = make_engine(workers=1)
    engine.start(1)
    assert set(engine.said) == {
        "waiting: no worker has loaded the network yet; ray status shows what is free in a cluster"
    }


@pytest.mark.usefixtures("_cluster")
def test_a_bundle_gives_the_same_files_on_ray_and_in_process(tiny_bundle, tmp_path):
    for number, name in enumerate("abc"):
        array = np.random.default_rng(number).random((10, 9, 8)).astype(np.float32)
        (tmp_path / "in").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_text("hello")
    for engine in ("in-process", "ray"):
        arguments = ["--bundle", tiny_bundle, "--output", tmp_path / engine, "--device", "cpu", "--probabilities"]
        workers = ["--workers", WORKERS] if engine == "ray" else []
        command = ["predict", tmp_path / "in", *arguments, "--engine", engine, *workers]
        result = CliRunner().invoke(app, [str(word) for word in command])
        assert result.exit_code == 2 and result.stdout.startswith("2 of 3 cases are segmented")
        [line] = [line for line in result.stderr.splitlines() if not line.startswith("waiting: ")]
        assert line.startswith(f"error: {tmp_path}/in/b.nii.gz: cannot be read")
        report = json.loads((tmp_path / engine / "report.json").read_text())
        assert (report["engine"], report["workers"]) == (engine, WORKERS if workers else 1)
        assert (report["done"], report["failed"], report["retries"], report["resumed"]) == (2, 1, 0, 0)
        assert [Path(case["input"]).name[0] for case in report["cases"]] == ["a", "b", "c"]
        assert report["peak_memory_mib"]["process"] > 0
    for name in ("a.nii.gz", "a_probabilities.nii.gz", "c.nii.gz", "c_probabilities.nii.gz"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "in-process" / name).read_bytes()


def test_a_gpu_is_not_chosen_by_number(fake_loader):
    with pytest.raises(SpecError, match="'cuda:1' names one GPU, which Ray chooses for each worker"):
        OnRay(fake_loader(), device="cuda:1", say=print)
