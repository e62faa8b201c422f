"""The progress bar of an epoch, and means over it."""

from __future__ import annotations

import pytest
from ignite.engine import Engine, Events
from monai.handlers import StatsHandler

from medsegdiff.handlers.progress import EpochMeans, EpochProgress, scalar_of


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


def test_means_over_an_epoch_are_metrics_of_the_trainer(capsys):
    values = iter([1.0, 2.0, 6.0, 5.0, 5.0, 8.0])
    engine = Engine(lambda _engine, _batch: [{"loss": next(values), "attention": 0.5}] * 2)
    engine.scalars = ("loss", "attention")
    EpochMeans().attach(engine)
    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(dict(e.state.metrics)))
    StatsHandler(iteration_log=False, name="means").attach(engine)
    engine.run([0, 0, 0], max_epochs=2)
    assert seen == [{"loss": 3.0, "attention": 0.5}, {"loss": 6.0, "attention": 0.5}]
    assert "loss: 3.0000" in capsys.readouterr().out


def test_a_trainer_that_names_nothing_has_the_mean_of_its_loss(make_trainer):
    trainer = make_trainer("supervised")
    EpochMeans().attach(trainer)
    losses = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(scalar_of(e.state.output, "loss")))
    trainer.run()
    assert trainer.state.metrics["loss"] == pytest.approx(sum(losses) / len(losses))
