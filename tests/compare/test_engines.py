"""Engines: tasks are done, errors come back, and the death of a worker is told from them."""

from __future__ import annotations

import math
import os
from concurrent.futures import wait
from pathlib import Path

import pytest

from medsegdiff.compare.engines import InProcess, Processes, StudyWorker, make_engine
from medsegdiff.errors import DataError, SpecError


def test_names_and_what_goes_with_them():
    one = make_engine("in-process", workers=None, device="cpu", most=5)
    assert isinstance(one, InProcess) and one.workers == 1
    several = make_engine("in-process", workers=8, device="cpu", most=3)
    assert isinstance(several, Processes) and several.workers == 3, "more would have nothing to do"
    with pytest.raises(SpecError, match="'dask' does not exist; use one of in-process, ray"):
        make_engine("dask", workers=None, device="cpu", most=1)
    with pytest.raises(SpecError, match="add --engine ray"):
        make_engine("in-process", workers=None, device="cpu", most=1, address="auto")
    with pytest.raises(SpecError, match="names one GPU"):
        make_engine("ray", workers=1, device="cuda:1", most=1)


def test_errors_come_with_the_result():
    engine = InProcess()
    assert engine.submit(math.sqrt, 4.0).result() == 2
    error = engine.submit(math.sqrt, -1.0).exception()
    assert isinstance(error, ValueError) and not engine.is_death(error)


@pytest.mark.slow
def test_processes_outlive_the_death_of_one():
    engine = Processes(1)
    try:
        assert engine.submit(math.sqrt, 4.0).result() == 2
        assert not engine.is_death(engine.submit(math.sqrt, -1.0).exception())
        assert engine.is_death(engine.submit(os._exit, 1).exception())
        assert engine.submit(math.sqrt, 9.0).result() == 3
    finally:
        engine.close()


def test_a_worker_elsewhere_that_does_not_see_the_files_says_so(tmp_path):
    import torch

    threads = torch.get_num_threads()
    missing = tmp_path / "nowhere"
    assert StudyWorker(threads, [tmp_path]).work(math.sqrt, [4.0]) == 2
    with pytest.raises(DataError, match=f"{missing}: a worker on .* does not see it"):
        StudyWorker(threads, [tmp_path, missing]).work(math.sqrt, [4.0])


@pytest.mark.slow
def test_tasks_on_ray():
    pytest.importorskip("ray", reason="needs Ray: pip install 'medsegdiff[ray]'")
    engine = make_engine("ray", workers=2, device="cpu", most=2, must_see=[Path(__file__).parent])
    try:
        assert engine.workers == 2
        futures = [engine.submit(math.sqrt, value) for value in (4.0, 9.0)]
        assert sorted(future.result() for future in wait(futures).done) == [2, 3]
        error = engine.submit(math.sqrt, -1.0).exception()
        assert isinstance(error, ValueError) and not engine.is_death(error)
        assert engine.is_death(engine.submit(os._exit, 1).exception())
        assert engine.submit(math.sqrt, 16.0).result() == 4
    finally:
        engine.close()
