"""The command over a real DICOM store, in a process of its own: whose images they are, training, and a sudden end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

import httpx

from medsegdiff.data.dicom.folder import read_folder
from tests.apps.label.conftest import label_of, save
from tests.apps.label.processes import free_ports, wait_until_up
from tests.apps.label.series import add, brain, defective, structures

pytestmark = pytest.mark.slow
LIMIT = 400
NAMES = [{"name": "anterior"}, {"name": "posterior"}]


@pytest.fixture
def serve(orthanc, tiny_bundle, tmp_path):
    """Starts servers over the store, all with the same bundle and work folder; gives client, process and log."""
    with contextlib.ExitStack() as stack:

        def serve():
            (port,) = free_ports(1)
            command = [sys.executable, "-m", "medsegdiff.cli.main", "label", "--studies", orthanc.dicomweb]
            command += ["--bundles", str(tiny_bundle), "--work", str(tmp_path / "work"), "--port", str(port)]
            log = tmp_path / f"log_{port}.txt"
            output = stack.enter_context(log.open("w"))
            process = subprocess.Popen(
                [*command, "--device", "cpu"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # so that what it starts can be ended with it
            )
            stack.callback(_end, process)
            wait_until_up(f"http://127.0.0.1:{port}/info/", process, log)
            return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT), process, log

        yield serve


def _end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


def _digests(bundle):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (bundle / "models").iterdir()}


@pytest.fixture
def labelled(orthanc, tmp_path):
    """Stores three series, and gives what keeps a final label of each by a server and returns their names."""
    images = [add(orthanc, brain(number), tmp_path / "series") for number in (1, 2, 4)]

    def label(client):
        for image in images:
            voxels, affine = read_folder(tmp_path / "series" / image)
            file = save(tmp_path / "label.nii.gz", label_of(voxels.astype(np.float32)), affine)
            upload = {"label": ("label.nii.gz", file.read_bytes())}
            form = {"params": json.dumps({"label_info": NAMES})}
            assert client.put("/datastore/label", params={"image": image}, data=form, files=upload).status_code == 200
        return images

    return label


def _wait_for(client, told):
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        task = client.get("/train/").json()
        if told(task):
            return task
        time.sleep(0.5)
    pytest.fail(f"not reached in {LIMIT} s: {task}")


def test_whose_images_they_are_is_neither_written_down_nor_answered(serve, orthanc, tmp_path):
    odd = {"PatientID": "MRN-4711" + "x" * 70, "PatientBirthDate": "Doe^Jane", "PatientSex": "Doe^Jane"}
    image = add(orthanc, brain(1, **odd), tmp_path / "series")
    others = [add(orthanc, one, tmp_path / "series") for one in [*defective().values(), structures()]]
    client, _, log = serve()
    replies = [client.get("/info/"), client.get("/datastore/", params={"output": "all"})]
    for uid in (image, *others, "nobody"):
        replies.append(client.post("/infer/hippocampus", params={"image": uid, "output": "json"}))
    replies += [client.post("/activelearning/first", json={}), client.get("/datastore/", params={"output": "all"})]
    bare = {"label": ("label.bin", b"\1" * (24 * 20 * 12))}
    replies.append(client.put("/datastore/label", params={"image": image}, files=bare))
    replies += [client.get("/datastore/label/info", params={"label": image, "tag": "final"})]
    assert {reply.status_code for reply in replies} == {200, 404, 422}
    written = [log, *(tmp_path / "work").rglob("*.json"), *(tmp_path / "work").rglob("*.log")]
    assert len(written) > 1
    for text in (*(reply.text for reply in replies), *(path.read_text() for path in written)):
        assert "Doe" not in text and "4711" not in text


def test_fine_tuning_takes_its_labels_from_the_store(serve, labelled, tiny_bundle, tmp_path):
    before = _digests(tiny_bundle)
    client, process, _ = serve()
    labelled(client)
    _end(process)
    for file in (tmp_path / "work").rglob("labels/final/*.nii.gz"):  # so that they have to be fetched
        file.unlink()
    client, *_ = serve()
    assert client.post("/train/hippocampus", json={"epochs": 1}).status_code == 200
    task = _wait_for(client, lambda task: task["status"] not in ("SUBMITTED", "RUNNING"))
    assert task["status"] == "DONE", task
    result = client.get("/info/").json()["train_stats"]["hippocampus"]
    assert len(result["training_cases"] + result["validation_cases"]) == 3
    assert _digests(tiny_bundle) == before


def test_a_server_that_is_killed_while_it_trains_leaves_all_weights_as_they_were(
    serve, labelled, tiny_bundle, tmp_path
):
    before = _digests(tiny_bundle)
    client, process, _ = serve()
    image, *_ = labelled(client)
    client.post("/train/hippocampus", json={"epochs": 10_000})
    _wait_for(client, lambda task: any("epoch" in line for line in task.get("details", ())))
    _end(process)
    assert _digests(tiny_bundle) == before
    client, *_ = serve()
    reply = client.post("/infer/hippocampus", params={"image": image, "output": "json"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["weights"] == "shipped"
    models = client.get("/info/").json()["models"]
    assert models["hippocampus"]["config"]["weights"] == ["latest", "shipped", "supervised"]
