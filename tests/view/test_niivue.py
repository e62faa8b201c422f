from __future__ import annotations

import pytest

from medsegdiff.errors import SpecError
from medsegdiff.view import niivue


@pytest.fixture(autouse=True)
def _anew():
    niivue.niivue_module.cache_clear()
    yield
    niivue.niivue_module.cache_clear()


def test_the_viewer_is_a_module_that_a_script_may_hold():
    pytest.importorskip("ipyniivue", reason="extra `pages` is not installed")
    text = niivue.niivue_module()
    assert 1_000_000 < len(text) < 5_000_000
    assert "</script" not in text and "<!--" not in text
    assert "BSD 2-Clause" in niivue.niivue_licence() and "Copyright" in niivue.niivue_licence()


def test_where_it_is_not_installed_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(niivue, "PACKAGE", "no_such_package")
    with pytest.raises(SpecError, match=r"not installed; run pip install 'medsegdiff\[pages\]', or make none"):
        niivue.niivue_module()


def test_a_package_in_which_it_is_not_found_is_named(monkeypatch, tmp_path):
    pytest.importorskip("ipyniivue", reason="extra `pages` is not installed")
    monkeypatch.setattr(niivue, "_ENCODED", niivue._EXPORTS)
    with pytest.raises(
        SpecError, match=r"got ipyniivue 2.*, in which NiiVue is not found; run pip install ipyniivue=="
    ):
        niivue.niivue_module()
