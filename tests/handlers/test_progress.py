"""The progress bar of an epoch."""

from __future__ import annotations

import pytest
from ignite.engine import Engine, Events

from medsegdiff.handlers.progress import EpochProgress


def run(output, *, rank: int = 0) -> None:
    engine = Engine(lambda _engine, _batch: output)
    engine.state.rank = rank
    EpochProgress(persist=True).attach(engine)
    engine.run([0, 0, 0], max_epochs=2)


@pytest.mark.parametrize("output", [{"loss": 1.25}, [{"loss": 1.25}, {"loss": 1.25}]], ids=["batch", "samples"])
def test_it_shows_epoch_iterations_and_loss(capsys, output):
    run(output)
    shown = capsys.readouterr().err
    assert "loss=1.25" in shown
    assert "[2/2]" in shown
    assert "3/3" in shown


def test_other_processes_show_nothing(capsys):
    run({"loss": 1.25}, rank=1)
    assert capsys.readouterr().err == ""


def test_the_bar_of_the_training_engine_has_a_total(make_trainer, capsys):
    trainer = make_trainer("supervised", samples=6)
    EpochProgress(persist=True).attach(trainer)
    finished = []
    trainer.add_event_handler(Events.COMPLETED, finished.append)
    trainer.run()
    assert finished
    assert "3/3" in capsys.readouterr().err
