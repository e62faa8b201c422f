"""What a run's folder says."""

from __future__ import annotations

import pytest

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
    assert ensemble.weights == [member.weights[0] for member in members]


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
