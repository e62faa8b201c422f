"""DICOM series from the command line, answered in DICOM or otherwise."""

from __future__ import annotations

import gzip
import json
import re

import nibabel
import numpy as np
import pydicom
import pytest

from medsegdiff.cohort.manifest import MANIFEST_NAME
from tests.data.dicom.segmentations import voxels_of, voxels_on_grid
from tests.data.dicom.synthetic import noise, places, slices, write


def test_a_series_becomes_a_dicom_segmentation_and_what_is_none_is_reported(predict, save_image, tmp_path):
    images = slices(places(range(8)), volume=noise(8, shape=(10, 9)), spacing=(1, 1), FrameOfReferenceUID="1.2.3")
    series, image = write(tmp_path / "series", images), save_image(tmp_path / "a.nii.gz")
    result = predict(series, image, "--output-format", "dicom-seg", "--probabilities")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(f"error: {image}: got an image that is no DICOM series; a DICOM-SEG refers to one; give")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {MANIFEST_NAME, "report.json", "series.dcm", "series_probabilities.nii.gz"}
    data = pydicom.dcmread(tmp_path / "out" / "series.dcm")
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["anterior", "posterior"]
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for segment in data.SegmentSequence]
    assert kinds == ["Hippocampus"] * 2
    # The same voxels as in the other format.
    assert predict(series).exit_code == 0
    label = nibabel.load(tmp_path / "out" / "series.nii.gz")
    assert voxels_on_grid(data, label.affine) == voxels_of(np.asarray(label.dataobj))


def _contents(folder):
    return {
        path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in folder.iterdir()
    }


@pytest.mark.parametrize("output_format", ["nifti", "dicom-seg"])
def test_who_the_patient_is_stands_in_the_dicom_segmentation_only(predict, tmp_path, output_format):
    """Not even where an export calls folders after patients, or a header has a name in the place of a number."""
    export = tmp_path / "DOE_JANE_4711"
    images = slices(places(range(8)), volume=noise(8, shape=(10, 9)), spacing=(1, 1), FrameOfReferenceUID="1.2.3")
    write(export / "t1", images)
    write(export / "cut", slices(places([0, 1, 2, 4])))
    write(export / "broken", slices(places([0, 1])))
    for path in (export / "broken").iterdir():
        path.write_bytes(path.read_bytes().replace(b"3\\-7\\11", b"3\\Doe  "))
    inputs = [*(export / name for name in ("t1", "cut", "broken")), export / "absent"]
    result = predict(*inputs, "--uncertainty", "--draws", 2, "--output-format", output_format)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 3
    identities = re.compile(rb"doe|jane|4711|19500102|20210304", re.IGNORECASE)
    # The terminal names the inputs as they were given.
    assert not identities.search(result.output.replace(f"{export}/", "").encode())
    contents = _contents(tmp_path / "out")
    segmentation = contents.pop("t1.dcm", b"Doe^Jane MRN-4711")
    assert b"Doe^Jane" in segmentation and b"MRN-4711" in segmentation
    assert {"manifest.jsonl", "report.json", "t1_entropy.nii.gz"} <= set(contents)
    assert [name for name, content in contents.items() if identities.search(content)] == []
    cases = {case["input"]: case.get("error", "") for case in json.loads(contents["report.json"])["cases"]}
    assert list(cases) == ["absent", "t1", "cut", "broken"]
    assert cases["absent"].startswith("absent: there is no such file")
    assert cases["cut"].startswith("cut: got 1 missing slice")
    assert cases["broken"].startswith("broken/0.dcm: got a DICOM file whose header cannot be used")
