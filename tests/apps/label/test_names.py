from __future__ import annotations

import pytest

from medsegdiff.apps.label.names import check_plain
from medsegdiff.errors import SpecError


@pytest.mark.parametrize("name", ["hippocampus_001", "1.2.826.0.1", "a b", "Jürgen", "x" * 200])
def test_plain_names_pass(name):
    assert check_plain("name", name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", ".hidden", "a\x00b", "a\nb", "x" * 201]
)
def test_names_that_lead_elsewhere_do_not(name):
    with pytest.raises(SpecError, match="no plain name"):
        check_plain("name", name)
