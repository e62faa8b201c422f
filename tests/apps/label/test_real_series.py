"""Series of real scanners in a real DICOM store."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

import pydicom_seg
import SimpleITK as sitk

from tests.apps.label.asking import ask, saved
from tests.apps.label.networks import random_bundle
from tests.data.dicom.validator import DCIODVFY, dicom_errors

pytestmark = pytest.mark.real_data

HIPPOCAMPUS = "hippocampus/dicom_study1"
OBLIQUE = "prostatex/dicom/07-07-2011/4.000000-t2tsetra-00702"
SCAN = "sts/dicom/STS_002/CT/image"
REGULAR = [
    *(HIPPOCAMPUS, OBLIQUE, SCAN),
    *("sts/dicom/STS_002/PET/image", "sts/dicom/STS_002/MR_T1/image"),
    "prostatex/dicom/07-07-2011/7.000000-ep2ddifftraDYNDISTADC-48780",
    *(f"odd/dicom2nifti/{name}" for name in ("generic/anatomical/002_non_isotropic", "generic/compressed_j2k/001")),
    "odd/dicom2nifti/siemens_multiframe/anatomical/001",
]
CONTOURS = "sts/dicom/STS_002/CT/mask"
FAILING = {
    "gantrytilting": "gantry tilt of 14.0°",
    "sliceincrement": "1 missing slice",
    "sliceorientation": "several orientations",
    "notavolume": "lie at the same",
}


@pytest.fixture
def stored(orthanc, data_root):
    """Stores the series in a folder; gives its UID."""

    def stored(name):
        orthanc.add(data_root / name)
        first = next((data_root / name).glob("*.dcm"))
        return str(pydicom.dcmread(first, stop_before_pixels=True).SeriesInstanceUID)

    return stored


def _by_place(data, like):
    """A segmentation (slices, rows, columns) on the grid of an image, by places in the patient alone."""
    found = pydicom_seg.MultiClassReader().read(data).image
    return sitk.GetArrayFromImage(sitk.Resample(found, like, sitk.Transform(), sitk.sitkNearestNeighbor))


def _by_gdcm(folder):
    """The image of a series by another reader."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def test_regular_series_are_segmented_and_defective_ones_refused(
    stored, start, orthanc, data_root, repository, tmp_path
):
    bundle = random_bundle(repository, tmp_path / "bundles", "hippocampus", window=(96, 96, 24), kind="")
    client = start(orthanc.dicomweb, bundle, work=tmp_path / "work", candidates=0)
    for name, words in FAILING.items():
        reply = ask(client, stored(f"odd/dicom2nifti/failing/{name}/001"), "image")
        assert (reply.status_code, words in reply.json()["detail"]) == (422, True), reply.text
        assert "\n" not in reply.json()["detail"] and "dicom2nifti" not in reply.text
    reply = ask(client, stored(CONTOURS), "image")
    assert (reply.status_code, "contours (RTSTRUCT)" in reply.json()["detail"]) == (422, True)
    for name in REGULAR:
        image = stored(name)
        label = sitk.ReadImage(saved(ask(client, image, "image", result_extension=".nrrd"), tmp_path / "x.nrrd"))
        expected = sitk.GetArrayFromImage(label)
        assert len(np.unique(expected)) > 1, name
        answer = saved(ask(client, image, "dicom_seg"), tmp_path / "x.dcm")
        np.testing.assert_array_equal(_by_place(pydicom.dcmread(answer), label), expected, err_msg=name)
        if DCIODVFY is not None:
            source = next((data_root / name).glob("*.dcm"))
            assert dicom_errors(answer, source=source) == [], name


def test_a_label_drawn_on_an_oblique_series_stays_on_its_side(stored, start, orthanc, data_root, repository, tmp_path):
    bundle = random_bundle(repository, tmp_path / "bundles", "hippocampus", window=(96, 96, 24))
    client = start(orthanc.dicomweb, bundle, work=tmp_path / "work", candidates=0)
    image = stored(OBLIQUE)
    scan = _by_gdcm(data_root / OBLIQUE)
    label = np.zeros(scan.GetSize()[::-1], np.uint8)
    label[3:6, 100:140, 250:300] = 1  # columns run to the patient's left
    label[10:12, 300:310, 20:60] = 2
    drawn = sitk.GetImageFromArray(label)
    drawn.CopyInformation(scan)
    sitk.WriteImage(drawn, str(tmp_path / "drawn.nrrd"))
    upload = {"label": ("drawn.nrrd", (tmp_path / "drawn.nrrd").read_bytes())}
    assert client.put("/datastore/label", params={"image": image}, files=upload).status_code == 200
    (tmp_path / "stored.dcm").write_bytes(orthanc.files(Modality="SEG")[0])
    data = pydicom.dcmread(tmp_path / "stored.dcm")
    np.testing.assert_array_equal(_by_place(data, scan), label)
    header = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, (data_root / OBLIQUE).glob("*.dcm"))}
    for group in data.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        own = header[reference.ReferencedSOPInstanceUID].ImagePositionPatient
        np.testing.assert_allclose(group.PlanePositionSequence[0].ImagePositionPatient, own, atol=1e-3)
    found = pydicom_seg.MultiClassReader().read(data).image
    left = {
        number: np.mean(
            [
                found.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])[0]
                for index in np.argwhere(sitk.GetArrayFromImage(found) == number)
            ]
        )
        for number in (1, 2)
    }
    middle = scan.TransformContinuousIndexToPhysicalPoint([size / 2 for size in scan.GetSize()])[0]
    assert left[1] > middle > left[2]


def test_the_shipped_weights_refuse_series_of_another_kind(stored, start, orthanc, tmp_path):
    from medsegdiff.apps.label.bundles import own_bundles

    client = start(orthanc.dicomweb, own_bundles() / "hippocampus", work=tmp_path / "work")
    scan, image = stored(SCAN), stored(HIPPOCAMPUS)
    reply = ask(client, scan, "image")
    assert reply.status_code == 422
    assert "modality CT; hippocampus segments MR" in reply.json()["detail"]
    assert ask(client, image, "json").json()["label_names"] == {"anterior": 1, "posterior": 2}
