from __future__ import annotations

import shutil

import pytest

import medsegdiff
from medsegdiff.cohort.settings import settings_digest


@pytest.fixture
def bundle(tmp_path):
    for file in ("configs/inference.json", "models/model.pt", "models/model.json"):
        path = tmp_path / "bundle" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    return tmp_path / "bundle"


def _settings(bundle, **changes):
    member = {"weights": str(bundle / "models" / "model.pt"), "method": "recycling", "steps": 5}
    member |= {key: value for key, value in changes.items() if key in member}
    return {"members": [member], "seed": 0, "device": "cpu", "amp": "off"} | {
        key: value for key, value in changes.items() if key not in member
    }


def _digest(bundle, *, kinds=("label",), output_format="nifti", **changes):
    return settings_digest(_settings(bundle, **changes), bundle, kinds, output_format=output_format)


@pytest.mark.parametrize(
    "changes",
    [
        *({"steps": 4}, {"seed": 1}, {"amp": "bf16"}, {"fusion": "staple"}, {"kinds": ("label", "entropy")}),
        {"output_format": "dicom-seg"},
    ],
)
def test_a_setting_changes_the_digest(bundle, changes):
    assert _digest(bundle) == _digest(bundle)
    assert _digest(bundle, **changes) != _digest(bundle)


def test_the_device_does_not_change_the_digest(bundle):
    assert _digest(bundle, device="cuda:0") == _digest(bundle)


@pytest.mark.parametrize("file", ["configs/inference.json", "models/model.pt", "models/model.json"])
def test_what_a_file_holds_changes_the_digest(bundle, file):
    before = _digest(bundle)
    (bundle / file).write_text("other")
    assert _digest(bundle) != before


def test_where_the_bundle_lies_does_not_change_the_digest(bundle, tmp_path):
    moved = shutil.copytree(bundle, tmp_path / "elsewhere")
    assert _digest(moved) == _digest(bundle)


def test_another_version_changes_the_digest(bundle, monkeypatch):
    before = _digest(bundle)
    monkeypatch.setattr(medsegdiff, "__version__", "0.0.0")
    assert _digest(bundle) != before
