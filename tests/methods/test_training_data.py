from __future__ import annotations

import json

import pytest

from medsegdiff.errors import DataError, SpecError
from medsegdiff.methods.training_data import NOT_STATED, PHANTOMS, in_words, training_data, weights_training_data

ORGANS = {"name": "Organs", "licence": "CC BY 4.0", "url": "https://example.org"}
UNKNOWN = {"name": NOT_STATED, "licence": NOT_STATED}


@pytest.fixture
def make_weights(tmp_path, make_spec):
    """Weights in the folder `models` of a bundle, or in another."""

    def make(folder="models", *, metadata=None, **changes):
        path = tmp_path / "bundle" / folder / "model.pt"
        make_spec(**changes).write(path.with_suffix(".json"))
        if metadata is not None:
            (tmp_path / "bundle" / "configs").mkdir()
            (tmp_path / "bundle" / "configs" / "metadata.json").write_text(json.dumps(metadata))
        return path

    return make


def test_what_the_weights_say_themselves_comes_first(make_weights):
    weights = make_weights(metadata={"training_data": [ORGANS]}, split="phantoms", training_data=[UNKNOWN])
    assert weights_training_data(weights) == [UNKNOWN]


def test_of_the_weights_that_a_bundle_ships_its_metadata_tell(make_weights, tmp_path, monkeypatch):
    weights = make_weights(metadata={"training_data": [ORGANS]})
    assert weights_training_data(weights) == [ORGANS]
    monkeypatch.chdir(tmp_path / "bundle" / "models")
    assert weights_training_data("model.pt") == [ORGANS]
    assert weights_training_data(make_weights("ckpt")) == [UNKNOWN]


def test_weights_of_phantoms_say_so_and_others_of_which_nobody_tells_that(make_weights):
    assert weights_training_data(make_weights("ckpt", split="phantoms")) == [PHANTOMS]
    assert weights_training_data(make_weights()) == [UNKNOWN]
    assert weights_training_data(make_weights(metadata={"name": "organs"})) == [UNKNOWN]


@pytest.mark.parametrize("entry", ["Organs", ["Organs"], [{"name": "Organs"}], [{**ORGANS, "licence": None}]])
def test_entries_that_name_no_licence_are_refused(make_weights, entry):
    with pytest.raises(
        SpecError, match=r"metadata\.json, training_data: got .*; allowed are objects with the texts name"
    ):
        weights_training_data(make_weights(metadata={"training_data": entry}))


def test_a_run_takes_over_what_the_folder_says(tmp_path):
    assert training_data(None) == [PHANTOMS]
    assert training_data(str(tmp_path)) == [UNKNOWN]
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "Organs", "licence": "CC0", "numTraining": 3}))
    assert training_data(str(tmp_path)) == [{"name": "Organs", "licence": "CC0"}]
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read as JSON"):
        training_data(str(tmp_path))


def test_a_run_that_goes_on_from_weights_has_their_data_too(make_weights, tmp_path):
    weights = make_weights(metadata={"training_data": [ORGANS]})
    assert training_data(str(tmp_path), weights) == [UNKNOWN, ORGANS]
    assert training_data(None, make_weights("ckpt", split="phantoms")) == [PHANTOMS]


def test_they_are_told_in_words():
    assert in_words([ORGANS, {"name": "Own", "licence": NOT_STATED}, UNKNOWN]) == (
        "Organs (CC BY 4.0); Own (licence not stated); not stated"
    )


def test_a_run_may_start_from_weights_of_which_nothing_is_known(tmp_path):
    (tmp_path / "start.pt").touch()
    assert training_data(None, tmp_path / "start.pt") == [PHANTOMS, UNKNOWN]
