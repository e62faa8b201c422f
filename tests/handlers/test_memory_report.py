"""What is said of memory at the start of training and at its end."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from medsegdiff.handlers import memory_report
from medsegdiff.handlers.memory_report import MemoryReport
from medsegdiff.methods import RunSpec, build_segmenter


@pytest.fixture
def trainer():
    """An engine of two iterations that has what the report looks at."""
    spec = RunSpec("phantoms", "supervised", "small", 2, 1, ["background", "head"], [16, 16])

    def make(rank: int = 0) -> Engine:
        engine = Engine(lambda *_: None)
        engine.state.rank, engine.state.device = rank, torch.device("cpu")
        engine.segmenter, engine.ema = build_segmenter(spec), SimpleNamespace()
        MemoryReport().attach(engine)
        return engine

    return make


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == memory_report.__name__]


def test_an_estimate_comes_first_and_the_peak_last(trainer, caplog):
    with caplog.at_level(logging.INFO):
        trainer().run([{"image": torch.zeros(2, 1, 16, 16)}] * 2, max_epochs=2)
    first, last = messages(caplog)
    assert first.startswith("training on batches of 2 x 1 x 16 x 16 takes about ")
    assert last.startswith("peak memory so far: ")


def test_too_little_memory_is_warned_of_before_it_is_taken(trainer, caplog, monkeypatch):
    monkeypatch.setattr(memory_report, "free_bytes", lambda device: 1000)
    trainer().run([{"image": torch.zeros(2, 1, 16, 16)}])
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "1000 bytes are free on cpu: take a smaller batch_size" in warning.getMessage()


def test_further_processes_say_nothing(trainer, caplog):
    with caplog.at_level(logging.INFO):
        trainer(rank=1).run([{"image": torch.zeros(2, 1, 16, 16)}])
    assert not messages(caplog)
