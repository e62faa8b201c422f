"""Validation by sampling: which weights are kept, and when training stops."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from medsegdiff.errors import SpecError
from medsegdiff.handlers.validation import SamplerValidation
from medsegdiff.methods import RunSpec, build_segmenter, load_segmenter

NAN = float("nan")


class ScriptedValidator:
    """An evaluator whose scores are written down, and which remembers how the network was set when it ran."""

    def __init__(self, network, scores):
        self.network = network
        self.scores = iter(scores)
        self.state = SimpleNamespace(metrics={}, rank=0)
        self.runs: list[tuple[int, str, dict]] = []

    def run(self, epoch):
        self.draws = self.network.draws
        self.runs.append((epoch, self.network.sampler, dict(self.network.sampler_options)))
        self.state.metrics["val_mean_dice"] = next(self.scores)


@pytest.fixture
def make_validation(tmp_path):
    """Validation of a network whose first parameter counts the epochs, with its validator and a trainer's engine."""

    def make(scores, *, method="recycling", sampler_options=None, epochs=None, **options):
        spec = RunSpec(
            task="test",
            method=method,
            size="small",
            spatial_dims=2,
            in_channels=1,
            class_names=["background", "first"],
            roi_size=[8, 8],
            options={"channels": [8, 8], "num_res_blocks": 0, "transformer": False},
            sampler_options=sampler_options or {},
            steps=2,
        )
        network = build_segmenter(spec)
        network.set_sampling(sampler_options=spec.sampler_options)
        validator = ScriptedValidator(network, scores)
        validation = SamplerValidation(validator, network, tmp_path, spec, **options)

        def step(engine, _batch):
            with torch.no_grad():
                next(network.parameters()).fill_(engine.state.epoch)

        trainer = Engine(step)
        validation.attach(trainer)
        validation.train = lambda: trainer.run([0], max_epochs=epochs or len(scores))
        return validation, validator, trainer

    return make


def epoch_of(path) -> float:
    return float(next(iter(torch.load(path, weights_only=True).values())).flatten()[0])


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.3, 0.2], 2),
        ([0.1, 0.3, 0.3, 0.2], 3),  # the later of equal ones
        ([0.0, 0.0], 2),
        ([0.1, NAN, NAN], 1),
        ([NAN, 0.1, NAN], 2),
        ([0.5, NAN, 0.6], 3),
    ],
)
def test_the_best_weights_are_kept(make_validation, tmp_path, scores, best):
    validation, _, _ = make_validation(scores)
    validation.train()
    assert epoch_of(tmp_path / "model.pt") == best
    assert validation.best == {"ddpm": scores[best - 1]}


def test_a_score_that_is_not_a_number_never_wins(make_validation, tmp_path):
    validation, _, _ = make_validation([NAN, NAN])
    validation.train()
    assert not any(tmp_path.iterdir())


def test_each_sampler_keeps_its_own_best_weights(make_validation, tmp_path):
    ddpm, ddim = [0.1, 0.9, 0.3], [0.9, 0.3, 0.2]
    scores = [score for epoch in zip(ddpm, ddim, strict=True) for score in epoch]
    validation, validator, _ = make_validation(scores, samplers=["ddim"], epochs=3)
    validation.train()
    assert [(epoch, sampler) for epoch, sampler, _ in validator.runs] == [
        (epoch, sampler) for epoch in (1, 2, 3) for sampler in ("ddpm", "ddim")
    ]
    assert epoch_of(tmp_path / "model.pt") == 2
    assert epoch_of(tmp_path / "model_ddim.pt") == 1
    assert json.loads((tmp_path / "model.json").read_text())["sampler"] == "ddpm"
    assert json.loads((tmp_path / "model_ddim.json").read_text())["sampler"] == "ddim"
    assert load_segmenter(tmp_path / "model_ddim.pt").sampler == "ddim"


def test_the_name_of_a_sampler_is_fit_for_a_file(make_validation, tmp_path):
    validation, _, _ = make_validation([0.1, 0.2], samplers="dpm_solver++", epochs=1)
    validation.train()
    assert load_segmenter(tmp_path / "model_dpm_solverpp.pt").sampler == "dpm_solver++"


def test_options_of_the_own_sampler_are_for_it_alone(make_validation, tmp_path):
    own = {"variance": "beta"}
    validation, validator, _ = make_validation([0.1] * 4, sampler_options=own, samplers=["ddim"], epochs=2)
    validation.train()
    assert [options for _, _, options in validator.runs] == [own, {}, own, {}]
    assert (validator.network.sampler, validator.network.sampler_options) == ("ddpm", own)
    assert json.loads((tmp_path / "model.json").read_text())["sampler_options"] == own
    assert json.loads((tmp_path / "model_ddim.json").read_text())["sampler_options"] == {}


def test_validation_draws_as_often_as_asked_and_leaves_the_run_as_it_was(make_validation, tmp_path):
    validation, validator, _ = make_validation([0.1], draws=2)
    validation.spec = validation.spec.replace(draws=7)
    validation.train()
    assert validator.draws == 2
    assert validator.network.draws == 7
    assert json.loads((tmp_path / "model.json").read_text())["draws"] == 7


def test_validation_comes_at_its_interval_and_at_the_end(make_validation):
    validation, validator, _ = make_validation([0.1] * 3, interval=2, epochs=5)
    validation.train()
    assert [epoch for epoch, _, _ in validator.runs] == [2, 4, 5]


def test_only_the_first_process_writes(make_validation, tmp_path):
    validation, validator, _ = make_validation([0.1, 0.2])
    validator.state.rank = 1
    validation.train()
    assert not any(tmp_path.iterdir())
    assert validation.best == {"ddpm": 0.2}


@pytest.mark.parametrize(
    ("scores", "last"),
    [
        ([0.1, 0.2, 0.2, 0.2, 0.9], 4),
        ([0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.9], 6),
        ([0.1, NAN, NAN, 0.9], 3),
        ([NAN, 0.1, 0.1, 0.1, 0.9], 4),
    ],
)
def test_training_stops_when_nothing_improves(make_validation, scores, last):
    validation, _, trainer = make_validation(scores, patience=2)
    validation.train()
    assert trainer.state.epoch == last


def test_the_early_stop_watches_the_own_sampler_alone(make_validation):
    scores = [x for n in range(5) for x in (0.1 * n, 0.5)]
    validation, _, trainer = make_validation(scores, samplers=["ddim"], patience=2, epochs=5)
    validation.train()
    assert trainer.state.epoch == 5


def test_without_patience_training_goes_on(make_validation):
    validation, _, trainer = make_validation([0.1] * 6)
    validation.train()
    assert trainer.state.epoch == 6


def test_state_goes_through_a_dictionary(make_validation):
    first, _, _ = make_validation([0.3, 0.2, 0.1], patience=4)
    first.train()
    second, _, trainer = make_validation([0.2, 0.2], patience=4)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.best == {"ddpm": 0.3}
    second.train()
    assert trainer.state.epoch == 2
    assert second.state_dict()["early_stop"]["counter"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samplers": ["ddpm"]}, "further samplers .*'ddpm'.*give those beside its own"),
        ({"samplers": ["ddim"], "method": "supervised"}, "none for a supervised network"),
        ({"samplers": ["euler"]}, "no sampler 'euler': choose one of ddpm, ddim, dpm_solver"),
        ({"samplers": "euler"}, "no sampler 'euler'"),
        ({"patience": 0}, "patience is 0; give at least 1"),
        ({"draws": 0}, "asked for with 0 draws; give at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make_validation, options, message):
    with pytest.raises(SpecError, match=message):
        make_validation([0.1], **options)
