"""A real DICOM store: an Orthanc of one's own, with DICOMweb."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ORTHANC = shutil.which("Orthanc")
PLUGINS = "/usr/share/orthanc/plugins"
MISSING = "no Orthanc: apt-get install orthanc orthanc-dicomweb"


@dataclass(frozen=True)
class Orthanc:
    """A store that runs, at this address."""

    address: str

    @property
    def dicomweb(self) -> str:
        return f"{self.address}/dicom-web"

    def add(self, folder: Path) -> None:
        """Store all `.dcm` files of a folder."""
        for file in sorted(folder.glob("*.dcm")):
            httpx.post(f"{self.address}/instances", content=file.read_bytes()).raise_for_status()

    def files(self, **query: Any) -> list[bytes]:
        """The stored files whose attributes are these, such as Modality="SEG"."""
        found = httpx.post(f"{self.address}/tools/find", json={"Level": "Instance", "Query": query}).json()
        return [httpx.get(f"{self.address}/instances/{one}/file").content for one in found]


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_until_up(address: str, process: subprocess.Popen[Any], *, seconds: float = 120) -> None:
    """Wait until a server that was started answers.

    Raises:
        RuntimeError: it ended, or took longer.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(address, timeout=10)
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    msg = f"nothing answers at {address} (process status {process.poll()})"
    raise RuntimeError(msg)


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """An empty store whose files and log lie in `folder`, until the block is left."""
    port, dicom_port = free_ports(2)
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": port,
        "DicomPort": dicom_port,
        "AuthenticationEnabled": False,
        "Plugins": [PLUGINS],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(settings))
    store = Orthanc(f"http://127.0.0.1:{port}")
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([str(ORTHANC), folder / "settings.json"], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_up(f"{store.address}/system", process)
            yield store
        finally:
            process.terminate()
            process.wait(30)
