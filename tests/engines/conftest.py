"""Runs of one process, as torchrun would start it."""

from __future__ import annotations

import logging
import socket

import pytest

from medsegdiff.engines.distributed import stop_processes


@pytest.fixture
def torchrun(monkeypatch):
    """The environment of the only process of a run; leaves the run in the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    yield
    stop_processes()
    logging.disable(logging.NOTSET)
