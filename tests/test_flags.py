from __future__ import annotations

import pytest

from medsegdiff.errors import SpecError
from medsegdiff.flags import as_bool


@pytest.mark.parametrize(("value", "meaning"), [(True, True), ("false", False), ("True", True), (False, False)])
def test_words_mean_what_they_say(value, meaning):
    assert as_bool(value) is meaning


@pytest.mark.parametrize("value", ["no", 1, None, ""])
def test_anything_else_is_refused(value):
    with pytest.raises(SpecError, match=r"clean_mask is .*; use true or false"):
        as_bool(value, "clean_mask")
