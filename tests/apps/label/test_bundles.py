from __future__ import annotations

import shutil

import pytest

from medsegdiff.apps.label.bundles import find_bundles, own_bundles
from medsegdiff.errors import DataError


def test_a_bundle_or_a_folder_of_bundles_is_found(tiny_bundle, tmp_path):
    (one,) = find_bundles([tiny_bundle], work=tmp_path)
    (same,) = find_bundles([tiny_bundle.parent], work=tmp_path)
    assert one.name == same.name == "hippocampus"
    assert one.labels == {"anterior": 1, "posterior": 2}
    assert one.modalities is None
    assert "version" in one.description


def test_those_of_the_repository_have_the_shipped_weights(tmp_path):
    names = [bundle.name for bundle in find_bundles([own_bundles()], work=tmp_path)]
    assert "hippocampus" in names
    assert "brats" not in names  # without weights


def test_modalities_come_from_the_bundle(tiny_bundle, tmp_path, repository):
    bundle = tmp_path / "brats"
    shutil.copytree(repository / "bundles" / "brats" / "configs", bundle / "configs")
    shutil.copytree(tiny_bundle / "models", bundle / "models")
    (found,) = find_bundles([bundle], work=tmp_path)
    assert found.modalities is not None
    assert len(found.modalities) == 4


def test_nothing_to_serve_is_told(repository, tmp_path):
    with pytest.raises(DataError, match="no bundle with weights"):
        find_bundles([repository / "bundles" / "brats"], work=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_bundles([tmp_path / "nowhere"], work=tmp_path)


def test_two_bundles_of_one_name_are_refused(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "copy")
    with pytest.raises(DataError, match="two bundles of the name 'hippocampus'"):
        find_bundles([tiny_bundle, tmp_path / "copy"], work=tmp_path)


def test_damaged_weights_are_left_out(tiny_bundle, tmp_path, caplog):
    bundle = tmp_path / "bundles" / "damaged"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "models" / "model.json").write_text("{")
    with pytest.raises(DataError, match="no bundle with weights"):
        find_bundles([bundle], work=tmp_path)
    assert "left out the bundle" in caplog.text
