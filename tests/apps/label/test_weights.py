from __future__ import annotations

import shutil

import pytest

from medsegdiff.apps.label.weights import KeptWeights
from medsegdiff.errors import SpecError


@pytest.fixture
def kept(tiny_bundle, tmp_path):
    return KeptWeights(tiny_bundle, tmp_path / "weights")


def _finish(kept, *, better):
    run = kept.new_run()
    for name in ("model.pt", "model.json"):
        shutil.copy(kept.bundle / "models" / name, run)
    kept.finish(run, {"better": better})
    return run


def test_without_fine_tuning_the_latest_are_the_shipped_ones(kept, tiny_bundle):
    assert kept.names() == ["latest", "shipped", "supervised"]
    assert kept.path() == kept.path("shipped") == tiny_bundle / "models" / "model.pt"
    assert kept.path("supervised") == tiny_bundle / "models" / "supervised.pt"
    assert kept.result() == {}


def test_the_last_run_that_made_them_no_worse_is_the_latest(kept):
    first, second, worse = _finish(kept, better=True), _finish(kept, better=True), _finish(kept, better=False)
    assert sorted({first.name, second.name, worse.name}) == [first.name, second.name, worse.name]
    assert kept.path() == second / "model.pt"
    assert kept.path(worse.name) == worse / "model.pt"
    assert kept.name_of(kept.path()) == second.name
    assert kept.spec().task == "hippocampus"


def test_a_run_that_was_killed_is_not_served(kept):
    run = kept.new_run()
    shutil.copy(kept.bundle / "models" / "model.pt", run)
    assert run.name not in kept.names()
    assert kept.path() == kept.path("shipped")


@pytest.mark.parametrize("name", ["nothing", "../../models", ""])
def test_names_that_do_not_exist_are_refused(kept, name):
    with pytest.raises(SpecError, match="use one of latest, shipped, supervised"):
        kept.path(name)
