"""A real DICOM store: an Orthanc of one's own, with DICOMweb."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.apps.label.processes import free_ports, running

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
    command = [str(ORTHANC), folder / "settings.json"]
    with running(command, probe=f"{store.address}/system", log=folder / "log.txt"):
        yield store
