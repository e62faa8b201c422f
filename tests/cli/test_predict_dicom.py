"""Series answered in DICOM from the command line."""

from __future__ import annotations

import nibabel
import numpy as np
import pydicom

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
    texts = [result.output, *(path.read_text() for path in (tmp_path / "out").glob("*.json*"))]
    assert not any("Doe" in text or "4711" in text for text in texts)
    # The same voxels as in the other format.
    assert predict(series).exit_code == 0
    label = nibabel.load(tmp_path / "out" / "series.nii.gz")
    assert voxels_on_grid(data, label.affine) == voxels_of(np.asarray(label.dataobj))
