"""The store over DICOMweb, against a client that keeps its series in memory."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from cachetools import TTLCache
from pydicom import Dataset

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.apps.label.dicom_store import CheckedDicomStore
from medsegdiff.apps.label.errors import UnknownNameError
from medsegdiff.apps.label.segmentations import SegmentationWriter
from medsegdiff.data.reading import read_image
from medsegdiff.errors import DataError, SpecError
from tests.apps.label.conftest import save
from tests.data.dicom.segmentations import segmentation
from tests.data.dicom.synthetic import noise, places, slices

STUDY = "1.2.826.0.1.3680043.8.498.8"
MODALITIES = [["t1"], ["t2"]]


class FakeClient:
    base_url = "http://localhost/dicom-web"

    def __init__(self):
        self.series = {}
        self.fetched = []
        self.headers = []
        self.searches = 0
        self.answers = True

    def add(self, uid, datasets, *, modality="MR", description=""):
        self.series[uid] = (datasets, modality, description)

    def search_for_series(self, search_filters=None):
        self.searches += 1
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
                "00100020": {"vr": "LO", "Value": ["MRN-4711"]},
                "00201209": {"vr": "IS", "Value": [len(datasets)]},
            }
            for uid, (datasets, modality, description) in self.series.items()
            if wanted in (None, uid) and modality_wanted in (None, modality)
        ]

    def retrieve_series(self, study, series, media_types=None):
        self.fetched.append(series)
        return self.series[series][0]

    def retrieve_series_metadata(self, study, series):
        self.headers.append(series)
        return [one.to_json_dict() for one in self.series[series][0]]

    def store_instances(self, datasets):
        for one in datasets:
            self.add(str(one.SeriesInstanceUID), [one], modality=one.Modality)


def _series(number, heights=(0.0, 2.0, 4.0)):
    uid = f"{STUDY}.{number}"
    return uid, slices(places(heights), volume=noise(len(heights), seed=number), SeriesInstanceUID=uid)


def _bundle(modalities=None, kind="MR"):
    return SimpleNamespace(name="brain", modalities=modalities, kind=kind)


@pytest.fixture
def client():
    made = FakeClient()
    for number, description in ((1, "AX T1"), (2, "AX T2")):
        uid, datasets = _series(number)
        made.add(uid, datasets, description=description)
    made.add(f"{STUDY}.9", [Dataset()], modality="SEG")
    return made


@pytest.fixture
def store(client, tmp_path):
    made = CheckedDicomStore(
        client=client, search_filter={}, cache_path=str(tmp_path / "cache"), writer=SegmentationWriter([])
    )
    yield made
    made._observer.stop()


def test_series_of_images_are_listed_and_fetched_once(store, client):
    assert store.list_images() == [f"{STUDY}.1", f"{STUDY}.2"]
    path = store.get_image_uri(f"{STUDY}.1")
    assert store.get_image_uri(f"{STUDY}.1") == path
    assert client.fetched == [f"{STUDY}.1"]
    np.testing.assert_array_equal(read_image(path).array, noise(3, seed=1))


def test_opening_a_series_takes_one_search(store, client):
    store.get_image_uri(f"{STUDY}.1")
    assert client.searches == 1


@pytest.mark.parametrize("ttl", range(1, 8))
def test_what_becomes_too_old_while_it_is_looked_at_is_searched_for_again(store, ttl):
    store.web._found = TTLCache(maxsize=4, ttl=ttl, timer=itertools.count().__next__)
    for _ in range(4):
        assert store.list_images() == [f"{STUDY}.1", f"{STUDY}.2"]
        assert store.get_labeled_images() == []


def test_whose_series_it_is_is_not_kept(store):
    store.get_image_uri(f"{STUDY}.1")
    assert store.get_image_info(f"{STUDY}.1")["StudyInstanceUID"] == STUDY
    assert "4711" not in str(store.json())


def test_siblings_of_a_study_are_its_channels(store):
    files = store.files_of(f"{STUDY}.2", _bundle(MODALITIES))
    assert [file.name for file in files] == [f"{STUDY}.1.nii.gz", f"{STUDY}.2.nii.gz"]
    assert store.files_of(f"{STUDY}.2", _bundle()) == files[1:]


def test_a_study_without_a_modality_is_refused(store):
    with pytest.raises(DataError, match="no series of flair"):
        store.files_of(f"{STUDY}.1", _bundle([*MODALITIES, ["flair"]]))


def test_a_series_of_another_kind_than_the_bundles_images_is_refused_before_it_is_fetched(store, client):
    with pytest.raises(DataError, match="modality MR; brain segments CT"):
        store.files_of(f"{STUDY}.1", _bundle(kind="CT"))
    assert not client.fetched
    assert store.files_of(f"{STUDY}.1", _bundle(kind="aerial"))


def test_what_is_no_image_is_refused(store):
    with pytest.raises(DataError, match=r"a segmentation \(SEG\)"):
        store.get_image_uri(f"{STUDY}.9")


def test_a_series_with_a_gap_is_refused_until_it_is_complete_and_not_offered_meanwhile(store, client, tmp_path):
    uid, datasets = _series(3, heights=(0.0, 2.0, 4.0, 6.0, 8.0))
    client.add(uid, [*datasets[:3], datasets[4]])
    assert uid in store.get_unlabeled_images()
    for _ in range(2):
        with pytest.raises(DataError, match="1 missing slice"):
            store.get_image_uri(uid)
        assert uid not in store.get_unlabeled_images()
    assert not list((tmp_path / "cache").rglob(f"{uid}.nii.gz"))
    client.add(uid, datasets)
    assert read_image(store.get_image_uri(uid)).array.shape == (5, 4, 5)
    assert uid in store.get_unlabeled_images()


def test_a_series_that_could_not_be_fetched_whole_is_fetched_again(store, client, monkeypatch):
    broken = SimpleNamespace()  # as if the disk were full after the first file
    whole = client.series[f"{STUDY}.1"][0]
    monkeypatch.setitem(client.series, f"{STUDY}.1", ([whole[0], broken], "MR", ""))
    with pytest.raises(AttributeError):
        store.get_image_uri(f"{STUDY}.1")
    monkeypatch.undo()
    assert read_image(store.get_image_uri(f"{STUDY}.1")).array.shape == (5, 4, 3)


def test_unknown_series_and_names_that_lead_elsewhere_are_refused(store):
    with pytest.raises(UnknownNameError, match="ask the DICOM store"):
        store.get_image_uri("1.2.3")
    for ask in (store.get_image_uri, lambda name: store.get_label_uri(name, "final")):
        with pytest.raises(SpecError, match="no plain name"):
            ask("../1.2.3")


def test_images_are_added_and_removed_in_the_store_itself(store, tmp_path):
    file = save(tmp_path / "x.nii.gz", np.ones((2, 2, 2), np.uint8))
    for change in (
        lambda: store.add_image(f"{STUDY}.1", str(file), {}),
        lambda: store.remove_image(f"{STUDY}.1"),
        lambda: store.remove_label(f"{STUDY}.1", "final"),
    ):
        with pytest.raises(SpecError, match="DICOM store itself"):
            change()


def test_a_store_that_does_not_answer_is_told_without_what_was_asked(store, client):
    client.answers = False
    with pytest.raises(DataError, match="does not answer") as told:
        store.list_images()
    assert "Doe" not in str(told.value)


def test_an_address_of_something_else_is_told(store, client, monkeypatch):
    monkeypatch.setattr(client, "search_for_series", lambda **_: ["a", "list"])
    with pytest.raises(DataError, match="none of a DICOM store"):
        store.list_images()


def test_what_a_store_refuses_is_told_with_its_status(store, client, monkeypatch):
    def refuse(*_arguments, **_options):
        raise requests.HTTPError(response=SimpleNamespace(status_code=403))

    monkeypatch.setattr(client, "retrieve_series", refuse)
    with pytest.raises(DataError, match="HTTP status 403"):
        store.get_image_uri(f"{STUDY}.1")


def test_what_files_call_themselves_leads_nowhere(store, client, tmp_path):
    uid, datasets = _series(4)
    for number, one in enumerate(datasets):
        one.SOPInstanceUID = f"../../../outside{number}"
    client.add(uid, datasets)
    assert read_image(store.get_image_uri(uid)).array.shape == (5, 4, 3)
    assert not list(tmp_path.rglob("outside*"))


def test_labels_that_do_not_fit_are_not_sent(store, client, tmp_path):
    before = set(client.series)
    other = save(tmp_path / "x.nii.gz", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(DataError, match="shapes differ"):
        store.save_label(f"{STUDY}.1", str(other), "final", {})
    bare = tmp_path / "x.bin"
    bare.write_bytes(bytes(7))
    with pytest.raises(DataError, match="7 voxels for an image of 60"):
        store.save_label(f"{STUDY}.1", str(bare), "final", {})
    bare.write_bytes(bytes(60))
    with pytest.raises(DataError, match="without foreground"):
        store.save_label(f"{STUDY}.1", str(bare), "final", {})
    with pytest.raises(SpecError, match="tag"):
        store.save_label(f"{STUDY}.1", str(other), "../x", {})
    assert set(client.series) == before


def _foreground(store, uid=f"{STUDY}.1"):
    image = read_image(store.get_image_uri(uid))
    return (image.array > 0).astype(np.uint8), image.affine


def test_a_proposal_is_kept_in_the_cache(store, client, tmp_path):
    before = set(client.series)
    expected, affine = _foreground(store)
    store.save_label(f"{STUDY}.1", str(save(tmp_path / "x.nii.gz", expected, affine)), "original", {})
    np.testing.assert_array_equal(read_image(store.get_label_uri(f"{STUDY}.1", "original")).array, expected)
    assert set(client.series) == before
    store.remove_label(f"{STUDY}.1", "original")
    assert store.get_label_uri(f"{STUDY}.1", "original") == ""


def test_bare_voxels_come_column_by_column(store, tmp_path):
    expected, _ = _foreground(store)
    bare = tmp_path / "x.bin"
    bare.write_bytes(expected.tobytes(order="F"))
    store.save_label(f"{STUDY}.1", str(bare), "final", {})
    np.testing.assert_array_equal(read_image(store.get_label_uri(f"{STUDY}.1", "final")).array, expected)


def test_the_final_label_is_the_last_segmentation_in_the_store_whoever_made_it(store, client, tmp_path):
    uid = f"{STUDY}.1"
    assert store.get_label_uri(uid, "final") == ""
    expected, affine = _foreground(store)
    store.save_label(uid, str(save(tmp_path / "x.nii.gz", expected, affine)), "final", {})
    assert store.get_labeled_images() == [uid]
    fetched = list(client.fetched)
    np.testing.assert_array_equal(read_image(store.get_label_uri(uid, "final")).array, expected)
    assert client.fetched == fetched  # it is known already
    planes = np.zeros((2, 4, 5), bool)
    planes[0, 1, 2] = planes[1, 3, 4] = True
    other = segmentation(planes, places((0.0, 4.0)), [2, 1], series=uid, SeriesInstanceUID=f"{STUDY}.5")
    other.ContentDate, other.ContentTime = "29991231", "120000"
    client.store_instances([other])
    store.web.forget()  # half a minute later
    later = np.zeros((5, 4, 3), np.uint8)
    later[2, 1, 0], later[4, 3, 2] = 2, 1
    np.testing.assert_array_equal(read_image(store.get_label_uri(uid, "final")).array, later)
    assert store.get_label_info(uid, "final")["label_info"] == [{"name": "liver"}, {"name": "tumour"}]
    assert [pair["label"] for pair in store.datalist()] == [store.get_label_uri(uid, "final")]
    assert store.get_unlabeled_images() == [f"{STUDY}.2"]


def _planes(*voxels):
    planes = np.zeros((len(voxels), 4, 5), bool)
    for plane, (row, column) in zip(planes, voxels, strict=True):
        plane[row, column] = True
    return planes


def _store_segmentation(client, uid, number, *, file, time="120000", names=(), voxel=(1, 2)):
    """Add a segmentation of one voxel in the first slice to a series of segmentations."""
    made = segmentation(_planes(voxel, voxel), places((0.0, 0.0)), [1, 2], series=uid)
    made.SeriesInstanceUID, made.SOPInstanceUID = f"{STUDY}.{number}", f"{STUDY}.{number}.{file}"
    made.ContentDate, made.ContentTime = "29991231", time
    for segment, name in zip(made.SegmentSequence, names, strict=False):
        segment.SegmentLabel = name
    before = client.series.get(made.SeriesInstanceUID, ([],))[0]
    client.add(made.SeriesInstanceUID, [*before, made], modality="SEG")
    return made


def test_a_series_that_has_grown_is_fetched_again_with_its_label_and_without_its_score(store, client, tmp_path):
    uid, datasets = _series(3, heights=(0.0, 2.0, 4.0, 6.0))
    client.add(uid, datasets[:3])
    _store_segmentation(client, uid, 5, file=1)
    assert read_image(store.get_label_uri(uid, "final")).array.shape == (5, 4, 3)
    draft = save(tmp_path / "x.nii.gz", *_foreground(store, uid))
    store.save_label(uid, str(draft), "original", {})
    store.update_image_info(uid, {"disagreement": {"brain": {"score": 0.5}}})
    client.add(uid, datasets)
    assert read_image(store.get_image_uri(uid)).array.shape == (5, 4, 4)
    assert read_image(store.get_label_uri(uid, "final")).array.shape == (5, 4, 4)
    assert "disagreement" not in store.get_image_info(uid)
    assert read_image(store.get_label_uri(uid, "original")).array.shape == (5, 4, 3)
    fetched = list(client.fetched)
    store.get_image_uri(uid), store.get_label_uri(uid, "final")
    assert client.fetched == fetched


def test_of_several_segmentations_in_one_series_the_last_counts(store, client):
    uid = f"{STUDY}.1"
    for file, time, voxel in ((1, "110000", (0, 0)), (2, "130000", (1, 2)), (3, "120000", (3, 4))):
        _store_segmentation(client, uid, 5, file=file, time=time, voxel=voxel)
    label = read_image(store.get_label_uri(uid, "final")).array
    assert np.argwhere(label).tolist() == [[2, 1, 0]]
    _store_segmentation(client, uid, 5, file=4, time="140000", voxel=(3, 3))
    store.web.forget()  # half a minute later
    label = read_image(store.get_label_uri(uid, "final")).array
    assert np.argwhere(label).tolist() == [[3, 3, 0]]


@pytest.mark.parametrize(
    ("shares", "labelled"), [(("AUTOMATIC", "AUTOMATIC"), False), (("AUTOMATIC", "MANUAL"), True), ((None, None), True)]
)
def test_what_an_algorithm_made_alone_is_no_label(store, client, shares, labelled):
    uid = f"{STUDY}.1"
    made = _store_segmentation(client, uid, 5, file=1)
    for segment, share in zip(made.SegmentSequence, shares, strict=True):
        segment.SegmentAlgorithmType = share
    assert store.get_labeled_images() == [uid] * labelled
    assert (uid in store.get_unlabeled_images()) != labelled
    assert bool(store.get_label_uri(uid, "final")) == labelled


def test_headers_of_segmentations_are_asked_for_again_where_there_are_more(store, client):
    uid = f"{STUDY}.1"
    _store_segmentation(client, uid, 5, file=1)
    store.get_labeled_images()
    asked = client.headers.count(f"{STUDY}.5")
    store.web.forget()  # half a minute later
    store.get_labeled_images()
    assert client.headers.count(f"{STUDY}.5") == asked == 1
    _store_segmentation(client, uid, 5, file=2)
    store.web.forget()
    store.get_labeled_images()
    assert client.headers.count(f"{STUDY}.5") == 2


def test_segments_that_cannot_be_told_apart_or_are_too_many_are_refused(store, client):
    uid = f"{STUDY}.1"
    made = _store_segmentation(client, uid, 5, file=1, names=("lesion", "lesion"))
    with pytest.raises(DataError, match="2 segments with 1 different names"):
        store.get_label_uri(uid, "final")
    for number in range(2, 257):
        segment = copy.deepcopy(made.SegmentSequence[0])
        segment.SegmentNumber, segment.SegmentLabel = number, f"lesion {number}"
        made.SegmentSequence[number - 1 :] = [segment]
    with pytest.raises(DataError, match="256 segments"):
        store.get_label_uri(uid, "final")
    assert store.datalist() == []
