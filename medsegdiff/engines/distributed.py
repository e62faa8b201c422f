"""One run on several processes, started by torchrun: one process a GPU, or several on the CPU."""

from __future__ import annotations

import inspect
import logging
import os
import time
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medsegdiff.errors import SpecError

_TORCHRUN_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# How long threads of Gloo get to let go of tensors: far more than they take, even where they must wait for a core.
_GLOO_GRACE_SECONDS = 0.5


def process_rank() -> int:
    """Number of this process among all of the run; 0 for one that torchrun did not start."""
    return int(os.environ.get("RANK", "0"))


def is_one_of_several() -> bool:
    """Whether this process has joined a run, so that there is something to exchange."""
    return dist.is_available() and dist.is_initialized()


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a value over all processes of the run; the value itself where there is one."""
    if not is_one_of_several():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def local_device() -> torch.device:
    """The device of this process: the GPU of its number on this machine, or the CPU where there is none.

    Raises:
        SpecError: more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        msg = f"process {number} of this machine has no GPU of its own, there being {gpus}; start no more than {gpus}"
        raise SpecError(msg)
    return torch.device("cuda", number)


def start_processes(device: str | torch.device) -> None:
    """Join the processes of the run, over NCCL on GPUs and Gloo on CPUs; to be called before anything is built.

    Of all but the first process, only errors are logged from then on.

    Raises:
        SpecError: torchrun did not start this process.
    """
    missing = [name for name in _TORCHRUN_VARIABLES if name not in os.environ]
    if missing:
        msg = (
            f"a run on several processes needs {', '.join(missing)} in its environment; "
            "start it with torchrun --nproc_per_node N -m monai.bundle run …, or leave out multi_gpu_train.json"
        )
        raise SpecError(msg)
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if dist.get_rank() > 0:
        logging.disable(logging.WARNING)


def distribute(network: nn.Module, device: str | torch.device) -> DistributedDataParallel:
    """`network` on `device`, its gradients averaged over all processes.

    Every parameter must take part in every step, and buffers must be constants, which are not sent around at every
    step: both is so for all networks of this package.
    """
    device = torch.device(device)
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch 2.13 renames it
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(
        network.to(device), device_ids=[device] if device.type == "cuda" else None, **options
    )


def stop_processes() -> None:
    """Leave the processes of the run, where they were joined."""
    if not dist.is_initialized():
        return
    over_gloo = dist.get_backend() == "gloo"
    dist.destroy_process_group()
    if over_gloo:
        # Threads of Gloo outlive the group where a network was distributed, and let go of the tensors of a collective
        # only after it has been reported as done. One that still has to when the interpreter ends aborts the process
        # (pytorch#179291), and torchrun then calls a finished training failed.
        time.sleep(_GLOO_GRACE_SECONDS)
