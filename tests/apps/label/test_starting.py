"""What is told before a server listens."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.server import LabelServer
from medsegdiff.errors import MedSegDiffError, SpecError


@pytest.mark.parametrize(
    ("device", "studies", "words"),
    [("cuda:9", ".", "device 'cuda:9'"), ("cpu", "", "no such folder"), ("cpu", "http://", "without a host")],
)
def test_what_the_server_cannot_be_started_with_is_told(tmp_path, monkeypatch, device, studies, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MedSegDiffError, match=words):
        LabelServer(studies, device=device).prepare()
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SpecError, match=f"--port {port}, which cannot be listened at"):
            LabelServer(".", port=port).check_port()
    LabelServer(".", port=port).check_port()


def test_a_dicom_store_that_does_not_answer_is_told_but_waited_for(start, tiny_bundle, tmp_path):
    address = "http://127.0.0.1:9/dicom-web"
    start(address, tiny_bundle, work=tmp_path / "work")
    assert LabelServer(address).trouble().startswith("the DICOM store does not answer")


def test_images_in_a_folder_are_no_trouble(client, studies):
    assert LabelServer(str(studies)).trouble() is None
