"""MONAI Label's own app for bundles, which knows nothing of this package, serves ours as they are."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.data.reading import read_image
from medsegdiff.inferers.predictor import BundlePredictor

STOCK = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"


@pytest.mark.skipif(not STOCK.is_dir(), reason=f"MONAI Label came without {STOCK}")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_the_stock_app_gives_what_the_predictor_gives(tiny_bundle, studies, tmp_path, monkeypatch, suffix):
    from monailabel.interfaces.utils.app import app_instance, clear_cache

    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copytree(STOCK, tmp_path / "app")
    shutil.copytree(tiny_bundle, tmp_path / "app" / "model" / "hippocampus")
    image = studies / "case_0.nii.gz"
    if suffix == ".nrrd":  # MONAI's Spacingd treats NIfTI files in a way of their own
        import SimpleITK as sitk

        sitk.WriteImage(sitk.ReadImage(str(image)), str(studies / "other.nrrd"))
        image = studies / "other.nrrd"
    conf = {"models": "hippocampus", "sam2": "false", "zoo_source": "local"}
    app = app_instance(str(tmp_path / "app"), str(studies), conf)
    try:
        name = image.name.removesuffix(suffix)
        request = {"model": "hippocampus", "image": name, "device": "cpu", "result_extension": ".nrrd"}
        result = app.infer({**request, "result_dtype": "uint8"})
    finally:
        app.datastore()._observer.stop()
        clear_cache()
    raw = read_image(result["file"])
    Path(result["file"]).unlink()
    expected = BundlePredictor(tiny_bundle, device="cpu").predict(image)
    np.testing.assert_allclose(raw.affine, expected.affine, atol=1e-5)
    np.testing.assert_array_equal(raw.array, expected.label)
    assert result["params"]["label_names"] == {"anterior": 1, "posterior": 2}
