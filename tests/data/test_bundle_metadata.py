from __future__ import annotations

import pytest

from medsegdiff.data.bundle_metadata import bundle_name, read_metadata
from medsegdiff.errors import DataError


def test_a_bundle_without_metadata_has_none_and_damaged_ones_are_refused(tmp_path):
    assert read_metadata(tmp_path) == {}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json cannot be read as JSON"):
        read_metadata(tmp_path)


def test_a_bundle_is_called_as_it_says_or_else_like_its_folder(tmp_path):
    assert bundle_name(tmp_path, {"name": "kidneys"}) == "kidneys"
    assert bundle_name(tmp_path / "other" / ".." / "spleen", {}) == "spleen"
