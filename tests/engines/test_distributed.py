"""Joining and leaving the processes of a run; training on two is tested with the bundles."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from torch import distributed as dist
from torch import nn

from medsegdiff.engines.distributed import distribute, local_device, process_rank, start_processes, stop_processes
from medsegdiff.errors import SpecError

# The thread of Gloo that did the sum still has to let go of the tensor when the program ends: for that it needs the
# lock of Python, which the main thread keeps.
ENDS_BEFORE_GLOO = """
import sys, time
import torch
from torch import distributed as dist
from medsegdiff.engines.distributed import start_processes, stop_processes

start_processes("cpu")
kept = dist.group.WORLD  # as a distributed network does
tensor = torch.ones(1)
sys.setswitchinterval(100)
dist.all_reduce(tensor, async_op=True)
until = time.monotonic() + 0.1
while time.monotonic() < until:
    pass
stop_processes()
"""


@pytest.fixture
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_without_torchrun_is_told_how_to_start(alone):
    assert process_rank() == 0
    with pytest.raises(SpecError, match=r"needs RANK, .* in its environment; start it with torchrun --nproc_per_node"):
        start_processes("cpu")
    assert not dist.is_initialized()


def test_leaving_without_having_joined_is_nothing(alone):
    stop_processes()


def test_the_cpu_joins_over_gloo(torchrun):
    start_processes("cpu")
    assert dist.get_backend() == "gloo"
    assert logging.root.manager.disable < logging.WARNING
    stop_processes()
    assert not dist.is_initialized()


def test_a_process_ends_well_though_gloo_still_holds_a_tensor(torchrun):
    result = subprocess.run([sys.executable, "-c", ENDS_BEFORE_GLOO], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_further_processes_log_errors_only(torchrun, monkeypatch):
    monkeypatch.setattr(dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    start_processes("cpu")
    assert logging.root.manager.disable == logging.WARNING


def test_a_network_is_wrapped_and_keeps_its_weights(torchrun):
    start_processes("cpu")
    network = nn.Linear(2, 3)
    wrapped = distribute(network, "cpu")
    assert wrapped.module is network
    assert torch.equal(wrapped(torch.ones(1, 2)), network(torch.ones(1, 2)))


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device() == torch.device("cpu")


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SpecError, match="process 2 of this machine has no GPU of its own, there being 2"):
        local_device()
