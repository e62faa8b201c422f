"""OHIF in a real browser: a study of a real DICOM store is opened, segmented, and the segmentation is seen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")
pytest.importorskip("playwright", reason="needs playwright: make label-env")

import httpx
import pydicom
import SimpleITK as sitk

from tests.apps.label.browser import CHROMIUM, MISSING, screen
from tests.apps.label.processes import running_label

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=MISSING)]

MODELS = ["hippocampus", "hippocampus_uncertainty", *(f"hippocampus_candidate_{k}" for k in (1, 2, 3))]
COLOURS = {"anterior": (220, 20, 60), "posterior": (65, 105, 225)}  # those of the bundle
BANDS = {25: (255, 225, 90), 50: (255, 140, 0), 75: (215, 25, 28)}


@pytest.fixture
def artefacts(request, tmp_path):
    """Folder for pictures of the screen."""
    root = Path(os.environ.get("MEDSEGDIFF_ARTEFACTS") or tmp_path)
    folder = root / "ohif" / request.node.callspec.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def served(orthanc, hippocampus_series, repository, tmp_path):
    """Address of a server over a DICOM store with the series."""
    orthanc.add(hippocampus_series)
    options = ["--work", tmp_path / "work", "--bundles", repository / "bundles" / "hippocampus"]
    with running_label(orthanc.dicomweb, *options, log=tmp_path / "label.txt") as address:
        yield address


def _volume(content: bytes, folder: Path) -> np.ndarray:
    """A label map (slices, rows, columns) that was sent."""
    (folder / "label.nrrd").write_bytes(content)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "label.nrrd")))


def _stretched(plane: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """A plane of labels over the part of a picture that the image takes, 0 around it."""
    rows, columns = (np.flatnonzero(picture.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    size = box[1].stop - box[1].start, box[0].stop - box[0].start
    whole = np.zeros(picture.shape[:2], dtype=plane.dtype)
    whole[box] = np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.NEAREST))
    return whole


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.sum(first & second) / (first.sum() + second.sum())


def _tint(colours: np.ndarray) -> np.ndarray:
    """Direction of colours (..., 3) away from grey, which laying a colour over a grey image leaves as it is."""
    away = colours - colours.mean(axis=-1, keepdims=True)
    return away / np.maximum(np.linalg.norm(away, axis=-1, keepdims=True), 1e-6)


def _assert_seen(before: list[np.ndarray], after: list[np.ndarray], plane: np.ndarray, colours: list) -> None:
    """That the axial view shows exactly this plane of labels, in these colours, and both others show some of them."""
    for one, other in zip(before, after, strict=True):
        assert (one != other).any(axis=2).sum() > 100
    axial, painted = before[0], (before[0] != after[0]).any(axis=2)
    expected = _stretched(plane, axial)
    assert _dice(painted, expected > 0) > 0.95
    assert _dice(painted, expected[:, ::-1] > 0) < 0.7
    for number in np.unique(expected[expected > 0]):
        tints = _tint(after[0][painted & (expected == number)])
        assert np.median(tints @ _tint(np.array(colours[number - 1], dtype=float))) > 0.98


def test_a_study_is_opened_and_its_segmentation_and_uncertainty_seen(served, hippocampus_series, artefacts, tmp_path):
    header = pydicom.dcmread(next(hippocampus_series.glob("*.dcm")), stop_before_pixels=True)
    with screen(served, artefacts) as ohif:
        ohif.open(header.PatientID)
        assert ohif.page.locator("#monailabelServerURL").input_value() == f"{served}/"
        ohif.page.get_by_text(header.SeriesDescription).first.wait_for()
        image = ohif.pictures("1_opened")
        ohif.connect()
        assert [name.strip() for name in ohif.segmentation.locator("option").all_inner_texts()] == MODELS

        reply = ohif.run("hippocampus")
        assert reply.status == 200
        first = _volume(reply.body(), tmp_path)
        segmented = ohif.pictures("2_segmentation")
        _assert_seen(image, segmented, first[ohif.axial_slice], list(COLOURS.values()))

        bands = _volume(ohif.run("hippocampus_uncertainty").body(), tmp_path)
        unsure = ohif.pictures("3_uncertainty")
        _assert_seen(image, unsure, bands[ohif.axial_slice], list(BANDS.values()))

        ohif.choose("hippocampus", draws=2, seed=7)
        chosen = _volume(ohif.run("hippocampus").body(), tmp_path)
        params = {"draws": 2, "seed": 7, "result_extension": ".nrrd", "result_dtype": "uint8"}
        query = {"image": header.SeriesInstanceUID, "output": "image"}
        form = {"params": json.dumps(params)}
        asked = httpx.post(f"{served}/infer/hippocampus", params=query, data=form, timeout=300)
        np.testing.assert_array_equal(chosen, _volume(asked.content, tmp_path))
        assert np.any(chosen != first)
    assert ohif.failures == []
