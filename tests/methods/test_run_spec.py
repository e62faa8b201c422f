"""The specification of a run: JSON and back, and which weights it refuses."""

from __future__ import annotations

import json

import pytest

from medsegdiff import __version__
from medsegdiff.errors import SpecError, WeightsError
from medsegdiff.methods import RunSpec


def test_it_survives_json(make_spec, tmp_path):
    spec = make_spec(
        3,
        class_names=("background", "left", "right"),
        options={"channels": (8, 16), "nested": {"sizes": (1, (2, 3))}},
        schedule={"name": "linear", "num_train_timesteps": 100},
        sampler="ddim",
        sampler_options={"eta": 0.5},
        draws=4,
        split="table",
    )
    spec.write(tmp_path / "model.json")
    assert RunSpec.read(tmp_path / "model.json") == spec
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    values = json.loads((tmp_path / "model.json").read_text())
    assert values["version"] == __version__
    assert values["class_names"] == ["background", "left", "right"]


def test_it_can_be_written_over(make_spec, tmp_path):
    make_spec(steps=2).write(tmp_path / "model.json")
    make_spec(steps=3).write(tmp_path / "model.json")
    assert RunSpec.read(tmp_path / "model.json").steps == 3


def test_a_changed_copy_leaves_the_first_as_it_was(make_spec):
    spec = make_spec()
    other = spec.replace(draws=7, options={"norm": "group"})
    assert (spec.draws, other.draws) == (1, 7)
    assert spec.options != other.options
    assert spec.num_classes == other.num_classes == 3


def test_it_does_not_change_with_what_it_was_made_from(make_spec):
    options = {"channels": [8, 16]}
    spec = make_spec(options=options)
    options["channels"].append(32)
    assert spec.options == {"channels": [8, 16]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "huge"}, "size 'huge' does not exist; use one of small, paper"),
        ({"spatial_dims": 4}, "got spatial_dims=4"),
        ({"roi_size": [8, 8, 8]}, r"got spatial_dims=2 with roi_size=\[8, 8, 8\]; allowed are 2 or 3 with as many"),
        ({"in_channels": 0}, "got in_channels=0.*at least one channel and two classes, background first"),
        ({"class_names": ["background"]}, "at least one channel and two classes"),
    ],
)
def test_values_out_of_range_are_refused(make_spec, changes, message):
    with pytest.raises(SpecError, match=message):
        make_spec(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[1, 2]", "holds list, which version .* does not know; update medsegdiff"),
        ('{"task": "a", "colour": 1}', r"holds \['colour'\], which version .* does not know"),
        ('{"task": "a"}', "is not a complete model.json .*method.*; copy the one written beside the weights"),
    ],
)
def test_files_that_are_no_specification_are_refused(tmp_path, text, message):
    path = tmp_path / "model.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(WeightsError, match=message) as caught:
        RunSpec.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_belongs_there(tmp_path):
    with pytest.raises(WeightsError, match=r"model.json does not exist; every model.pt needs the model.json"):
        RunSpec.read(tmp_path / "model.json")


def test_weights_of_the_same_run_match(make_spec):
    spec = make_spec()
    spec.require_match({}, where="model.pt")
    same = {
        "method": "recycling",
        "size": "small",
        "spatial_dims": 2,
        "class_names": ("background", "head", "tail"),
        "options": {**spec.options, "channels": (8, 16)},
        "schedule": None,
    }
    spec.require_match(same, where="model.pt")


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"task": "brats"}, "task"),
        ({"method": "diffusion"}, "method"),
        ({"size": "paper"}, "size"),
        ({"spatial_dims": 3}, "spatial_dims"),
        ({"in_channels": 1}, "in_channels"),
        ({"class_names": ["background", "tail", "head"]}, "class_names"),
        ({"options": {}}, "options"),
        ({"schedule": {"name": "cosine"}}, "schedule"),
        ({"method": "recycling", "size": "paper"}, "size"),
    ],
)
def test_weights_of_another_run_are_refused_by_the_name_of_the_field(make_spec, wanted, field):
    with pytest.raises(WeightsError) as caught:
        make_spec().require_match(wanted, where="folder/model.pt")
    message = str(caught.value)
    assert message.startswith(f"folder/model.pt was trained with {field}=")
    assert f"but {field}={wanted[field]!r} is asked for" in message
    assert f"give weights of that {field}, or leave {field} out" in message


def test_asking_by_a_field_that_is_none_is_refused(make_spec):
    with pytest.raises(SpecError, match="weights cannot be asked for by 'metod'; use one of task, method, size"):
        make_spec().require_match({"metod": "recycling"}, where="model.pt")
