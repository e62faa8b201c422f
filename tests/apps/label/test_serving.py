"""The command as a clinician starts it, in a process of its own, with the weights that are shipped."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

import httpx

from tests.apps.label.conftest import blobs, save
from tests.apps.label.processes import running_label

pytestmark = pytest.mark.slow
SHAPE = (36, 50, 36)  # a hippocampus volume


@pytest.fixture(scope="module")
def served(tmp_path_factory, repository):
    """Address, output and folder of a running server."""
    folder = tmp_path_factory.mktemp("served")
    studies = folder / "studies"
    studies.mkdir()
    for number in range(2):
        save(studies / f"Doe_Jane_{number}.nii.gz", blobs(number, SHAPE))
    log = folder / "log.txt"
    with running_label(studies, "--bundles", repository / "bundles" / "hippocampus", log=log) as address:
        yield address, log, studies


def _infer(address, **params):
    query = {"image": "Doe_Jane_0", "output": "json"}
    return httpx.post(f"{address}/infer/hippocampus", params=query, data=params, timeout=300)


def test_the_address_and_the_words_of_safety_are_printed(served):
    address, log, _ = served
    lines = log.read_text().splitlines()
    assert "Research use only; not a medical device." in lines
    assert any(line.startswith(f"open {address}/docs") for line in lines)


def test_a_segmentation_takes_the_steps_of_its_network(served):
    address, *_ = served
    reply = _infer(address)
    assert reply.status_code == 200
    assert reply.json()["steps"] == [5]


def test_others_are_answered_while_a_segmentation_runs(served):
    address, *_ = served
    _infer(address)
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(_infer, address, params='{"draws": 3}')
        long.add_done_callback(lambda _: done.set())
        answers = 0
        while not done.is_set():
            assert httpx.get(f"{address}/info/", timeout=60).status_code == 200
            answers += 1
            time.sleep(0.2)
        assert long.result().status_code == 200
    assert answers > 2  # one may come before it starts, and one after it ends


def test_ten_requests_at_once_are_all_answered(served):
    address, *_ = served
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda seed: _infer(address, params=f'{{"seed": {seed}, "steps": 2}}'), range(10)))
    assert [reply.status_code for reply in replies] == [200] * 10
    assert [reply.json()["seed"] for reply in replies] == list(range(10))


def test_a_client_that_leaves_does_no_harm(served):
    address, *_ = served
    query = {"image": "Doe_Jane_0", "output": "json"}
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{address}/infer/hippocampus", params=query, data={"params": '{"draws": 4}'}, timeout=0.2)
    assert _infer(address).status_code == 200


def test_whose_images_they_are_is_not_written_down(served):
    address, log, studies = served
    (studies / "Doe_Jane_9.nii.gz").write_bytes(b"damaged")
    for image in ("Doe_Jane_9", "Doe_Jane_0", "nobody"):
        httpx.post(f"{address}/infer/hippocampus", params={"image": image, "output": "json"}, timeout=300)
    httpx.post(f"{address}/activelearning/first", json={}, timeout=60)
    assert "Doe" not in log.read_text()
