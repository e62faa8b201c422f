"""The store over DICOMweb, against a client that keeps its series in memory."""

from __future__ import annotations

import numpy as np
import pytest
import requests

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.apps.label.errors import UnknownNameError
from medsegdiff.apps.label.store import CheckedDicomStore
from medsegdiff.data.reading import read_image
from medsegdiff.errors import DataError, SpecError
from tests.apps.label.conftest import save
from tests.data.dicom.synthetic import noise, places, slices

STUDY = "1.2.826.0.1.3680043.8.498.8"
MODALITIES = [["t1"], ["t2"]]


class FakeClient:
    base_url = "http://localhost/dicom-web"

    def __init__(self):
        self.series = {}
        self.fetched = []
        self.answers = True

    def add(self, uid, datasets, *, modality="MR", description=""):
        self.series[uid] = (datasets, modality, description)

    def search_for_series(self, search_filters=None):
        if not self.answers:
            msg = "http://localhost/dicom-web/Doe^Jane"
            raise requests.ConnectionError(msg)
        wanted = (search_filters or {}).get("SeriesInstanceUID")
        modality_wanted = (search_filters or {}).get("Modality")
        return [
            {
                "0020000E": {"vr": "UI", "Value": [uid]},
                "0020000D": {"vr": "UI", "Value": [STUDY]},
                "00080060": {"vr": "CS", "Value": [modality]},
                "0008103E": {"vr": "LO", "Value": [description]},
            }
            for uid, (_, modality, description) in self.series.items()
            if wanted in (None, uid) and modality_wanted in (None, modality)
        ]

    def retrieve_series(self, study, series):
        self.fetched.append(series)
        return self.series[series][0]


def _series(number, heights=(0.0, 2.0, 4.0)):
    uid = f"{STUDY}.{number}"
    return uid, slices(places(heights), volume=noise(len(heights), seed=number), SeriesInstanceUID=uid)


@pytest.fixture
def client():
    made = FakeClient()
    for number, description in ((1, "AX T1"), (2, "AX T2")):
        uid, datasets = _series(number)
        made.add(uid, datasets, description=description)
    made.add(f"{STUDY}.9", [], modality="SEG")
    return made


@pytest.fixture
def store(client, tmp_path):
    made = CheckedDicomStore(client=client, search_filter={}, cache_path=str(tmp_path / "cache"))
    yield made
    made._observer.stop()


def test_series_of_images_are_listed_and_fetched_once(store, client):
    assert store.list_images() == [f"{STUDY}.1", f"{STUDY}.2"]
    path = store.get_image_uri(f"{STUDY}.1")
    assert store.get_image_uri(f"{STUDY}.1") == path
    assert client.fetched == [f"{STUDY}.1"]
    assert read_image(path).array.shape == (5, 4, 3)


def test_siblings_of_a_study_are_its_channels(store):
    files = store.files_of(f"{STUDY}.2", MODALITIES)
    assert [file.name for file in files] == [f"{STUDY}.1.nii.gz", f"{STUDY}.2.nii.gz"]
    assert store.files_of(f"{STUDY}.2", None) == files[1:]


def test_a_study_without_a_modality_is_refused(store):
    with pytest.raises(DataError, match="no series of flair"):
        store.files_of(f"{STUDY}.1", [*MODALITIES, ["flair"]])


def test_a_series_with_a_gap_is_refused_before_it_is_converted(store, client, tmp_path):
    uid, datasets = _series(3, heights=(0.0, 2.0, 4.0, 10.0))
    client.add(uid, datasets)
    for _ in range(2):  # the second time, it is in the cache
        with pytest.raises(DataError):
            store.get_image_uri(uid)
    assert not list((tmp_path / "cache").rglob(f"{uid}.nii.gz"))


def test_unknown_series_and_names_that_lead_elsewhere_are_refused(store):
    with pytest.raises(UnknownNameError):
        store.get_image_uri("1.2.3")
    with pytest.raises(SpecError, match="no plain name"):
        store.get_image_uri("../1.2.3")


def test_a_store_that_does_not_answer_is_told_without_what_was_asked(store, client):
    client.answers = False
    with pytest.raises(DataError, match="does not answer") as told:
        store.list_images()
    assert "Doe" not in str(told.value)


def test_labels_that_do_not_fit_are_not_sent(store, tmp_path):
    other = save(tmp_path / "x.nii.gz", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(DataError, match="shapes differ"):
        store.save_label(f"{STUDY}.1", str(other), "final", {})
    bare = tmp_path / "x.bin"
    bare.write_bytes(bytes(7))
    with pytest.raises(DataError, match="7 voxels for an image of 60"):
        store.save_label(f"{STUDY}.1", str(bare), "final", {})
    with pytest.raises(SpecError, match="tag"):
        store.save_label(f"{STUDY}.1", str(other), "../x", {})


def test_a_proposal_is_kept_in_the_cache(store, tmp_path):
    image = read_image(store.get_image_uri(f"{STUDY}.1"))
    label = save(tmp_path / "x.nii.gz", (image.array > 0).astype(np.uint8), image.affine)
    store.save_label(f"{STUDY}.1", str(label), "original", {})
    np.testing.assert_array_equal(
        read_image(store.get_label_uri(f"{STUDY}.1", "original")).array, (image.array > 0).astype(np.uint8)
    )
