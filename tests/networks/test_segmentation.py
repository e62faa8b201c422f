from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from medsegdiff.errors import DataError, SpecError
from medsegdiff.networks.segmentation import StepCount, check_cases

IMAGE = torch.zeros(2, 1, 4, 4)


def test_steps_of_every_group_are_counted(make_segmenter):
    segmenter = make_segmenter(steps=4, draws=5, draws_per_batch=2)
    assert segmenter.sample(IMAGE.expand(-1, 3, -1, -1)).steps == (4, 4, 4)
    result = segmenter.sample(IMAGE.expand(-1, 3, -1, -1), callback=lambda seen: seen.step.index == min(seen.draws))
    assert result.steps == (1, 3, 4)
    assert make_segmenter(schedule=None).sample(IMAGE.expand(-1, 3, -1, -1)).steps == ()


@pytest.mark.parametrize("answer", [None, False, True])
def test_what_another_callback_answers_is_passed_on(make_segmenter, answer):
    count = StepCount(lambda _: answer)
    segmenter = make_segmenter(steps=3)
    segmenter.sample(IMAGE.expand(-1, 3, -1, -1), callback=count)
    assert count.steps == ((1,) if answer else (3,))


def test_names_are_those_given_else_those_of_the_files():
    named = MetaTensor(IMAGE.clone(), meta={"filename_or_obj": ["/x/left.nii.gz", "/x/right.nii"]})
    assert check_cases(named, None) == ["left", "right"]
    assert check_cases(named, ("a", "b"), [slice(0, 4)] * 2) == ["a", "b"]


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="got 1 case names for 2 images; give one for each, or none"):
        check_cases(IMAGE, ["a"])
    with pytest.raises(SpecError, match="got a window without the case it is cut from; give cases"):
        check_cases(IMAGE, None, [slice(0, 4)] * 2)
