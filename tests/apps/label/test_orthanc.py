"""A real DICOM store: series in, a segmentation back into it, read again by another library."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

import httpx
import pydicom
import pydicom_seg
import SimpleITK as sitk

ORTHANC = shutil.which("Orthanc")
LABELS = [{"name": "anterior", "color": [255, 0, 0]}, {"name": "posterior", "color": [0, 255, 0]}]

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(ORTHANC is None, reason="no Orthanc: apt-get install orthanc orthanc-dicomweb"),
]


@pytest.fixture
def orthanc(tmp_path, data_root):
    """Address of an Orthanc with one study."""
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, dicom_port = free.getsockname()[1], other.getsockname()[1]
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"),
        "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": port,
        "DicomPort": dicom_port,
        "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (tmp_path / "orthanc").mkdir()
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "orthanc.log").open("w") as log:
        process = subprocess.Popen([ORTHANC, tmp_path / "orthanc.json"], stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    httpx.get(f"{address}/system")
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            for file in sorted((data_root / "hippocampus" / "dicom_study1").glob("*.dcm")):
                httpx.post(f"{address}/instances", content=file.read_bytes()).raise_for_status()
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _on_grid_of(label: Path, dataset: pydicom.Dataset) -> np.ndarray:
    """A DICOM segmentation, which leaves out empty slices, on the grid of a label map, by places in space alone."""
    image = pydicom_seg.MultiClassReader().read(dataset).image
    return sitk.GetArrayFromImage(
        sitk.Resample(image, sitk.ReadImage(str(label)), sitk.Transform(), sitk.sitkNearestNeighbor)
    )


def test_a_series_is_segmented_and_the_segmentation_kept_where_it_came_from(orthanc, start, tmp_path):
    from medsegdiff.apps.label.bundles import own_bundles

    client = start(f"{orthanc}/dicom-web", own_bundles() / "hippocampus", work=tmp_path / "work")
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
    query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
    (stored,) = httpx.post(f"{orthanc}/tools/find", json=query).json()
    (tmp_path / "stored.dcm").write_bytes(httpx.get(f"{orthanc}/instances/{stored}/file").content)
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
