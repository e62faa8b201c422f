"""What a study ran on, in words."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> str:
    """The processor that computed, such as "NVIDIA H200" or "AMD EPYC 9B14, 2 threads"."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
