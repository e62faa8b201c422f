from __future__ import annotations

import pytest

from medsegdiff.apps.label.options import SamplingOptions, read_choice, read_fraction, read_number
from medsegdiff.errors import SpecError


def test_what_a_request_does_not_name_is_the_default():
    assert SamplingOptions.read({"device": "cpu"}, steps=5, draws=3) == SamplingOptions(5, 3, 0, "latest")


def test_numbers_come_as_numbers_or_text_and_a_choice_as_its_list():
    request = {"steps": "4", "draws": 2.0, "seed": 7, "weights": ["shipped", "latest"]}
    assert SamplingOptions.read(request, steps=5, draws=3) == SamplingOptions(4, 2, 7, "shipped")


@pytest.mark.parametrize("steps", [0, -1, 1001, "many", 2.5, True, {}, [], [1, 2], "9" * 5000])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(SpecError, match="steps=") as told:
        SamplingOptions.read({"steps": steps}, steps=5, draws=1)
    assert len(str(told.value)) < 100


@pytest.mark.parametrize(("name", "value"), [("draws", 65), ("seed", -1), ("seed", 2**31)])
def test_draws_and_seeds_out_of_range_are_refused(name, value):
    with pytest.raises(SpecError, match=f"{name}="):
        SamplingOptions.read({name: value}, steps=5, draws=1)


@pytest.mark.parametrize("value", [0, -0.1, 1.1, "x", None])
def test_fractions_lie_above_0_up_to_1(value):
    if value is None:
        assert read_fraction({"rate": value}, "rate", 0.5) == 0.5
        return
    with pytest.raises(SpecError, match="rate="):
        read_fraction({"rate": value}, "rate", 0.5)


def test_a_choice_is_one_of_the_words_the_first_by_default():
    assert read_choice({}, "values", ("bands", "percent")) == "bands"
    assert read_choice({"values": ["percent", "bands"]}, "values", ("bands", "percent")) == "percent"
    with pytest.raises(SpecError, match="bands, percent"):
        read_choice({"values": "colours"}, "values", ("bands", "percent"))


def test_an_empty_field_of_a_form_is_none():
    assert read_number({"steps": ""}, "steps", 5, most=9) == 5
