from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.apps.label.bundles import find_bundles
from medsegdiff.apps.label.training import FineTuning
from medsegdiff.errors import DataError

LIMIT = 240


def _digests(bundle):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (bundle / "models").iterdir()}


def _finished(client):
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        task = client.get("/train/").json()
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            return task
        time.sleep(0.5)
    pytest.fail(f"no end after {LIMIT} s: {task}")


@pytest.fixture
def labelled(client, labels):
    for number, label in enumerate(labels):
        upload = {"label": (label.name, label.read_bytes())}
        assert client.put("/datastore/label", params={"image": f"case_{number}"}, files=upload).status_code == 200
    return client


@pytest.mark.slow
def test_fine_tuning_on_corrected_labels_is_served_and_leaves_the_shipped_weights(labelled, tiny_bundle, studies):
    before = _digests(tiny_bundle)
    reply = labelled.post("/train/hippocampus", json={"epochs": 2, "learning_rate": 0.05})
    assert reply.status_code == 200
    task = _finished(labelled)
    assert task["status"] == "DONE", task
    assert _digests(tiny_bundle) == before
    info = labelled.get("/info/").json()
    result = info["train_stats"]["hippocampus"]
    assert result["started_from"] == "shipped"
    assert sorted(result["training_cases"] + result["validation_cases"]) == ["case_0", "case_1", "case_2"]
    assert result["name"] in info["models"]["hippocampus"]["config"]["weights"]
    assert result["better"] == (result["best_metric"] >= result["metric_before"])
    shipped, tuned = (
        labelled.post(
            "/infer/hippocampus",
            params={"image": "case_0", "output": "json"},
            data={"params": f'{{"weights": "{name}"}}'},
        ).json()["weights"]
        for name in ("shipped", result["name"])
    )
    assert (shipped, tuned) == ("shipped", result["name"])
    files = {path.name for path in (studies / ".medsegdiff" / "weights" / "hippocampus" / tuned).iterdir()}
    assert {"model.pt", "model.json", "result.json"} <= files
    assert "checkpoint.pt" not in files


@pytest.mark.slow
def test_a_training_that_is_stopped_leaves_the_weights_as_they_were(labelled, tiny_bundle):
    before = _digests(tiny_bundle)
    labelled.post("/train/hippocampus", json={"epochs": 10_000})
    second = labelled.post("/train/hippocampus", json={"epochs": 1})
    assert (second.status_code, second.json()["detail"].startswith("got a task while another runs")) == (429, True)
    runs = None
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:  # until it trains
        runs = labelled.get("/train/").json()
        if any("epoch" in line for line in runs.get("details", ())):
            break
        time.sleep(0.5)
    assert labelled.delete("/train/").status_code == 200
    assert _finished(labelled)["status"] == "STOPPED"
    assert _digests(tiny_bundle) == before
    reply = labelled.post("/infer/hippocampus", params={"image": "case_0", "output": "json"})
    assert reply.json()["weights"] == "shipped"


@pytest.mark.slow
def test_a_training_that_fails_ends_with_one_line(labelled, studies):
    (studies / "labels" / "final" / "case_1.nii.gz").write_bytes(b"damaged since")
    labelled.post("/train/hippocampus", json={"epochs": 1})
    task = _finished(labelled)
    assert task["status"] == "ERROR"
    assert task["details"][-1].startswith("error: ")
    assert "cannot be read" in task["details"][-1]
    assert not any("Traceback" in line for line in task["details"])


class NamedLabels:
    """A store of two cases, whose labels have these names; the image of a case named "bent" is refused."""

    def __init__(self, **names):
        self.names = names

    def get_labeled_images(self):
        return list(self.names)

    def files_of(self, image_id, bundle):
        if image_id == "bent":
            msg = "series bent: got a gantry tilt"
            raise DataError(msg)
        return [Path(f"{image_id}.nii.gz")]

    def get_label_uri(self, image_id, tag):
        return f"{image_id}_label.nii.gz"

    def get_label_info(self, image_id, tag):
        names = self.names[image_id]
        return {"label_info": [{"name": name} for name in names] if isinstance(names, list) else names}


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (NamedLabels(a=["anterior"], b=["liver", "tumour"]), "got a label of liver, tumour; allowed are anterior"),
        (NamedLabels(a=[], b=["posterior", "anterior"]), "got a label of posterior, anterior; allowed"),
        (NamedLabels(a=["Segment 1", "Segment 2"], bent=[]), "got a gantry tilt"),
        (NamedLabels(a=["anterior"], b="anterior"), "got label_info that is no list of objects"),
    ],
)
def test_labels_of_other_structures_and_images_that_are_none_are_left_out_and_told(tiny_bundle, tmp_path, store, words):
    trainer = FineTuning(find_bundles([tiny_bundle], work=tmp_path)[0])
    with pytest.raises(DataError, match=f"got 1 cases .*one of those left out: .*{words}"):
        trainer({"epochs": 1}, store)
    assert not list(tmp_path.iterdir())


def test_one_label_is_too_few(client, labels):
    client.put("/datastore/label", params={"image": "case_0"}, files={"label": ("x.nii.gz", labels[0].read_bytes())})
    reply = client.post("/train/hippocampus", json={})
    assert reply.status_code == 422
    assert "got 1 cases" in reply.json()["detail"]


def test_a_training_within_the_server_is_refused(labelled):
    reply = labelled.post("/train/hippocampus", params={"run_sync": True}, json={})
    assert reply.status_code == 400
    assert "leave run_sync out" in reply.json()["detail"]
