"""Images, labels and what is told of them, kept and asked for over REST."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from tests.apps.label.asking import is_one_line


def test_labels_are_kept_read_and_removed(client, labels):
    def send():
        upload = {"label": ("any.nii.gz", labels[0].read_bytes())}
        return client.put("/datastore/label", params={"image": "case_0"}, files=upload)

    assert send().json() == {"image": "case_0", "label": "case_0"}
    assert client.get("/datastore/").json()["completed"] == 1
    (pair,) = client.get("/datastore/", params={"output": "train"}).json()
    assert pair["label"].endswith("labels/final/case_0.nii.gz")
    assert client.get("/datastore/dataset").status_code == 200
    assert client.delete("/datastore/label", params={"id": "case_0", "tag": "final"}).status_code == 200
    assert client.get("/datastore/label", params={"label": "case_0", "tag": "final"}).status_code == 404


@pytest.mark.parametrize("kind", ["damaged", "other grid", "fractions", "text"])
def test_a_label_that_does_not_fit_is_refused_and_nothing_is_written(client, studies, labels, tmp_path, kind):
    from tests.apps.label.conftest import SHAPE, blobs, save

    content = {
        "damaged": lambda: labels[0].read_bytes()[:200],
        "other grid": lambda: save(tmp_path / "x.nii.gz", np.ones((4, 4, 4), np.uint8)).read_bytes(),
        "fractions": lambda: save(tmp_path / "x.nii.gz", blobs(0, SHAPE)).read_bytes(),
        "text": lambda: b"label",
    }[kind]()
    before = sorted(studies.rglob("*"))
    name = "x.txt" if kind == "text" else "x.nii.gz"
    reply = client.put("/datastore/label", params={"image": "case_0"}, files={"label": (name, content)})
    assert reply.status_code == 422
    assert is_one_line(reply)
    assert sorted(studies.rglob("*")) == before


@pytest.mark.parametrize(
    ("query", "name", "status"),
    [
        ({"image": "../case_0"}, "x.nii.gz", 400),
        ({"image": "case_0", "tag": "../../outside"}, "x.nii.gz", 400),
        ({"image": "case_0"}, "../../outside.nii.gz", 400),
        ({"image": "case_7"}, "x.nii.gz", 404),
    ],
)
def test_a_label_never_leaves_the_store(client, studies, labels, query, name, status):
    before = sorted(studies.parent.rglob("*"))
    reply = client.put("/datastore/label", params=query, files={"label": (name, labels[0].read_bytes())})
    assert reply.status_code == status
    assert sorted(studies.parent.rglob("*")) == before


def test_images_are_added_and_removed_within_the_store(client, studies):
    content = (studies / "case_1.nii.gz").read_bytes()

    def add(image, file=content):
        return client.put("/datastore/image", params={"image": image}, files={"file": ("new.nii.gz", file)})

    assert add("new").json() == {"image": "new"}
    assert (studies / "new.nii.gz").is_file()
    assert add("../new").status_code == 400
    assert add("broken", content[:100]).status_code == 422
    assert not (studies / "broken.nii.gz").exists()
    before = (studies / "case_0.nii.gz").read_bytes()
    reply = add("case_0")
    assert (reply.status_code, "which exists" in reply.json()["detail"]) == (400, True), reply.text
    assert (studies / "case_0.nii.gz").read_bytes() == before != content
    assert client.delete("/datastore/image", params={"id": "new"}).status_code == 200
    assert not (studies / "new.nii.gz").exists()
    assert client.delete("/datastore/image", params={"id": "new"}).status_code == 404


def test_what_is_told_of_images_and_labels_cannot_make_them_useless(client, labels):
    def tell(what, **info):
        query = {"image": "case_0", "label": "case_0", "tag": "final"}
        return client.put(f"/datastore/{what}/info", params=query, data={"info": json.dumps(info)})

    upload = {"label": (labels[0].name, labels[0].read_bytes())}
    assert client.put("/datastore/label", params={"image": "case_0"}, files=upload).status_code == 200
    assert tell("image", scanner="A").status_code == 200
    assert tell("label", label_info=[{"name": "anterior"}]).status_code == 200
    for reply in (
        tell("image", disagreement="x"),
        tell("image", strategy=[]),
        tell("label", label_info="x"),
        tell("label", label_info=[{"name": "anterior", "color": "red"}]),
    ):
        assert reply.status_code == 400
        assert is_one_line(reply)
    info = client.get("/datastore/label/info", params={"label": "case_0", "tag": "final"}).json()
    assert info["label_info"] == [{"name": "anterior"}]


def test_all_labelled_cases_come_in_one_file_which_is_not_left_behind(client, labels, tmp_path, monkeypatch):
    upload = {"label": (labels[0].name, labels[0].read_bytes())}
    assert client.put("/datastore/label", params={"image": "case_0"}, files=upload).status_code == 200
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    reply = client.get("/datastore/dataset")
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert any(name.endswith("case_0.nii.gz") for name in archive.namelist())
    assert not list((tmp_path / "scratch").iterdir())


def test_a_session_takes_an_image_but_no_archive(client, studies):
    upload = [("files", ("case_0.nii.gz", (studies / "case_0.nii.gz").read_bytes()))]
    assert client.put("/session/", params={"uncompress": True}, files=upload).status_code == 400
    session = client.put("/session/", files=upload).json()["session_id"]
    reply = client.post("/infer/hippocampus", params={"session_id": session, "output": "json"})
    assert reply.status_code == 200
    assert reply.json()["label_names"] == {"anterior": 1, "posterior": 2}
