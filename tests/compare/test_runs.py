"""What a run's folder says."""

from __future__ import annotations

import pytest

from medsegdiff.compare import tasks
from medsegdiff.compare.runs import DONE, FAILED, TO_DO, UNFINISHED, Probe, Sampling, read_json


def test_a_folder_tells_what_has_become_of_its_run(plan_study):
    run = plan_study().runs[0]
    assert run.state == TO_DO
    run.prepare_folder()
    assert run.state == TO_DO

    (run.folder / "training").mkdir()
    (run.folder / "training" / "checkpoint.pt").touch()
    assert run.state == UNFINISHED
    run.write_record(FAILED, {"reason": "bad luck"})
    assert run.state == FAILED and run.record(FAILED) == {"reason": "bad luck"}
    run.write_record(DONE, {"optimiser_steps": 6})
    assert run.state == DONE and run.record(FAILED) == {}


def test_an_ensemble_waits_for_its_members(plan_study, pretend_trained):
    *members, ensemble = plan_study(ensembles=[["supervised", "diffusion"]]).runs
    pretend_trained(members[0])
    assert ensemble.state == TO_DO
    pretend_trained(members[1])
    assert ensemble.state == DONE
    assert ensemble.weights_for(ensemble.samplings[0]) == [member.weights[""] for member in members]


class TestWeightsOfEachSampler:
    CHANGES = {
        "weights": "each_sampler",
        "methods": ["supervised", "diffusion"],
        "ensembles": [["supervised", "diffusion"]],
        "evaluation": {"samplers": ["ddpm", "ddim"], "steps": [2], "draws": [1], "probe_t": 250},
    }

    def test_training_looks_for_those_of_samplers_that_are_not_its_own(self, plan_study):
        supervised, diffusion, _ = plan_study(**self.CHANGES).runs
        assert diffusion.training.arguments["val_samplers"] == ["ddim"]
        assert "val_samplers" not in supervised.training.arguments
        assert [path.name for path in diffusion.weights.values()] == ["model.pt", "model_ddim.pt"]

    def test_a_sampling_takes_those_of_its_sampler_and_a_probe_the_runs_own(self, plan_study):
        supervised, diffusion, ensemble = plan_study(**self.CHANGES).runs
        chosen = {what.name: diffusion.weights_for(what)[0].name for what in diffusion.asked}
        assert list(chosen.values()) == ["model.pt", "model_ddim.pt", "model.pt"]
        assert [path.name for path in ensemble.weights_for(ensemble.samplings[1])] == ["model.pt", "model_ddim.pt"]
        assert supervised.weights_for(supervised.samplings[0]) == [supervised.weights[""]]

    def test_other_weights_are_other_results(self, plan_study):
        plan = plan_study(**self.CHANGES)
        diffusion = plan.runs[1]
        ddpm, ddim = diffusion.samplings
        diffusion.prepare_folder()
        files = []
        for digest in ("a", "b"):
            diffusion.write_record(DONE, {"weights": "0", "weights_of": {"ddim": digest}})
            files.append([plan.evaluation_file(diffusion, what) for what in (ddpm, ddim)])
        assert files[0][0] == files[1][0] and files[0][1] != files[1][1]

    def test_a_study_that_does_not_ask_for_it_has_the_runs_and_results_that_it_had(self, plan_study):
        asked, plain = plan_study(**self.CHANGES), plan_study(**{**self.CHANGES, "weights": "own"})
        assert "val_samplers" not in plain.runs[1].settings["settings"]
        assert [one.hash == other.hash for one, other in zip(asked.runs, plain.runs, strict=True)] == [
            *(True, False, False),
        ]
        assert {plain.runs[1].weights_for(what)[0].name for what in plain.runs[1].asked} == {"model.pt"}

    def test_each_weights_are_loaded_once(self, plan_study, pretend_trained, monkeypatch):
        plan = plan_study(**{**self.CHANGES, "evaluation": {**self.CHANGES["evaluation"], "steps": [2, 3]}})
        diffusion = plan.runs[1]
        pretend_trained(diffusion)
        seen = []

        class Fake:
            def __init__(self, bundle, weights, **_):
                seen.append([path.name for path in weights])

            def evaluate(self, what, **_):
                seen[-1].append(what.name)
                return {"cases": []}

            def probe(self, what, **_):
                return self.evaluate(what)

        monkeypatch.setattr(tasks, "RunEvaluator", Fake)
        tasks.measure(plan, diffusion, False)
        assert [names[0] for names in seen] == ["model.pt", "model_ddim.pt"]
        assert [len(names) for names in seen] == [4, 3] and all("ddim" in name for name in seen[1][1:])


def test_names_are_for_people(plan_study):
    plan = plan_study(methods=[{"method": "diffusion", "name": "slow"}], seeds=[3])
    assert plan.runs[0].label == "slow, seed 3"
    assert Sampling("dpm_solver++", 5, 2, 0).name == "dpm_solverpp-5-steps-2-draws-seed-0"
    assert Sampling("", 1, 1, 0).name == "once-1-steps-1-draws-seed-0"
    assert Probe(250, 1).name == "probe-250-seed-1"


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 1'])
def test_broken_records_count_as_none(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    assert read_json(tmp_path / "record.json") == {}
    assert read_json(tmp_path / "none.json") == {}
