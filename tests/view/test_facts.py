from __future__ import annotations

from datetime import date

import medsegdiff
from medsegdiff.view.facts import case_facts

DATA = [{"name": "Organs", "licence": "CC BY 4.0"}]
MODEL = {
    "bundle": "organs",
    "version": "1.0",
    "members": [
        {"weights": "model.pt", "sha256": "ab", "method": "recycling", "size": "small", "training_data": DATA},
        {"weights": "other.pt", "sha256": "cd", "method": "supervised", "size": "small", "training_data": DATA},
    ],
}
SAMPLED = {"weights": "/home/jane/model.pt", "method": "recycling", "sampler": "ddim", "steps": 5, "draws": 2}
SUPERVISED = {"weights": "/home/jane/other.pt", "method": "supervised"}


def test_a_single_network_is_told_with_its_sampling():
    model = {**MODEL, "members": MODEL["members"][:1]}
    assert case_facts(model, {"members": [SAMPLED], "seed": 3}, (5,)) == {
        "model": "organs 1.0, recycling (small)",
        "weights": "model.pt, SHA-256 ab",
        "trained on": "Organs (CC BY 4.0)",
        "sampling": "ddim, steps 5, draws 2",
        "seed": "3",
        "made by": f"medsegdiff {medsegdiff.__version__}",
        "date": date.today().isoformat(),
    }


def test_an_ensemble_is_told_by_its_members():
    facts = case_facts(MODEL, {"members": [SAMPLED, SUPERVISED], "fusion": "staple", "seed": 0}, (5,))
    assert facts["model"] == "organs 1.0, recycling (small); supervised (small)"
    assert facts["weights"] == "model.pt, SHA-256 ab; other.pt, SHA-256 cd"
    assert facts["trained on"] == "Organs (CC BY 4.0)"
    assert facts["sampling"] == "ddim, steps 5, draws 2; one pass, without sampling"
    assert facts["fusion"] == "staple of members"
    assert "jane" not in str(facts)


def test_sampling_that_stopped_early_is_told():
    assert case_facts(MODEL, {"members": [SAMPLED], "seed": 0}, (5, 3))["steps taken"] == "5, 3"
