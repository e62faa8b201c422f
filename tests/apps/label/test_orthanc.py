"""A real DICOM store: series in, a segmentation back into it, read again by another library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

import pydicom
import pydicom_seg
import SimpleITK as sitk

LABELS = [{"name": "anterior", "color": [255, 0, 0]}, {"name": "posterior", "color": [0, 255, 0]}]


def _on_grid_of(label: Path, dataset: pydicom.Dataset) -> np.ndarray:
    """A DICOM segmentation, which leaves out empty slices, on the grid of a label map, by places in space alone."""
    image = pydicom_seg.MultiClassReader().read(dataset).image
    return sitk.GetArrayFromImage(
        sitk.Resample(image, sitk.ReadImage(str(label)), sitk.Transform(), sitk.sitkNearestNeighbor)
    )


def test_a_series_is_segmented_and_the_segmentation_kept_where_it_came_from(
    orthanc, hippocampus_series, start, tmp_path
):
    from medsegdiff.apps.label.bundles import own_bundles

    orthanc.add(hippocampus_series)
    client = start(orthanc.dicomweb, own_bundles() / "hippocampus", work=tmp_path / "work")
    (series,) = client.get("/proxy/dicom/series").json()
    image = series["0020000E"]["Value"][0]
    assert client.get("/info/").json()["datastore"]["total"] == 1
    assert client.post("/activelearning/first", json={}).json()["id"] == image

    def infer(output: str, **params: object) -> bytes:
        form = {"params": json.dumps({"result_extension": ".nrrd", "result_dtype": "uint8", **params})}
        reply = client.post("/infer/hippocampus", params={"image": image, "output": output}, data=form)
        assert reply.status_code == 200, reply.text
        return reply.content

    label = tmp_path / "label.nrrd"
    label.write_bytes(infer("image"))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(label)))
    assert np.bincount(expected.ravel(), minlength=3)[1:].min() > 500
    (tmp_path / "sent.dcm").write_bytes(infer("dicom_seg", label_info=LABELS))
    np.testing.assert_array_equal(_on_grid_of(label, pydicom.dcmread(tmp_path / "sent.dcm")), expected)

    form = {"params": json.dumps({"label_info": LABELS})}
    upload = {"label": ("label.nrrd", label.read_bytes())}
    reply = client.put("/datastore/label", params={"image": image, "tag": "final"}, data=form, files=upload)
    assert reply.status_code == 200
    assert client.get("/info/").json()["datastore"]["completed"] == 1
    assert client.post("/activelearning/first", json={}).json() == {}
    (stored,) = orthanc.files(Modality="SEG")
    (tmp_path / "stored.dcm").write_bytes(stored)
    dataset = pydicom.dcmread(tmp_path / "stored.dcm")
    np.testing.assert_array_equal(_on_grid_of(label, dataset), expected)
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["anterior", "posterior"]
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == image

    empty = tmp_path / "empty.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(label)) * 0, str(empty))
    upload = {"label": ("empty.nrrd", empty.read_bytes())}
    reply = client.put("/datastore/label", params={"image": image, "tag": "final"}, data=form, files=upload)
    assert reply.status_code == 422
    assert "without foreground" in reply.json()["detail"]
