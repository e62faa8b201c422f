"""Methods by name."""

from __future__ import annotations

import dataclasses

import pytest

from medsegdiff.errors import SpecError
from medsegdiff.methods import METHODS, get_method, register

PAPER = ["supervised", "diffusion", "recycling", "recycling_next", "self_conditioning", "self_conditioning_next"]


def test_the_methods_of_the_recycling_paper_are_there():
    assert set(PAPER) <= set(METHODS)
    for name in PAPER:
        method = get_method(name)
        assert (method.name, method.strategy) == (name, name)
        assert method.summary and "\n" not in method.summary
        assert (method.schedule is None) == (name == "supervised")
        assert (method.codec, method.prediction) == ("one_hot", "logits")


def test_settings_of_another_kind_of_prediction_take_nothing_over():
    method = dataclasses.replace(
        get_method("diffusion"),
        prediction="epsilon",
        prediction_options={"clip_x_0": True},
        size_predictions={"small": {"name": "v"}},
    )
    assert method.prediction_for("paper") == {"name": "epsilon", "clip_x_0": True}
    assert method.prediction_for("paper", {"clip_x_0": False}) == {"name": "epsilon", "clip_x_0": False}
    assert method.prediction_for("small") == {"name": "v"}
    assert method.prediction_for("small", {"clip_x_0": False}) == {"name": "v", "clip_x_0": False}
    assert method.prediction_for("paper", {"name": "logits"}) == {"name": "logits"}


def test_a_method_of_one_s_own_can_be_added_once(monkeypatch):
    monkeypatch.setattr("medsegdiff.methods.registry.METHODS", dict(METHODS))
    own = dataclasses.replace(get_method("diffusion"), name="own", time_sampler="uniform")
    assert register(own) is own
    assert get_method("own") is own
    with pytest.raises(SpecError, match="method 'own' is registered already; give another name"):
        register(own)


def test_a_method_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(SpecError, match="method 'recycle' does not exist; use one of supervised, diffusion,"):
        get_method("recycle")
