"""Servers in processes of their own, as a user starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

SECONDS_TO_WAIT = 300


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


@contextmanager
def running(command: Sequence[str | Path], *, probe: str, log: Path) -> Iterator[subprocess.Popen[Any]]:
    """Start a server, wait until it answers at the address `probe`, and stop it as Ctrl-C does."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        try:
            wait_until_up(probe, process, log)
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS_TO_WAIT)


def wait_until_up(probe: str, process: subprocess.Popen[Any], log: Path) -> None:
    """Wait until something answers at the address `probe`; a process that ends before that is an error."""
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(probe, timeout=10)
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    msg = f"nothing answers at {probe}:\n{log.read_text()}"
    raise RuntimeError(msg)


@contextmanager
def running_label(studies: str | Path, *options: str | Path, log: Path) -> Iterator[str]:
    """Run `medsegdiff label` on the CPU at a free port; its address."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "medsegdiff.cli.main", "label", "--studies", studies, "--port", str(port)]
    with running([*command, "--device", "cpu", *options], probe=f"{address}/info/", log=log) as process:
        yield address
    assert process.returncode == 0
