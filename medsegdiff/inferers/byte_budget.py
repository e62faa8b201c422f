"""How much memory there is to use on a device."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

from medsegdiff.errors import SpecError

FREE_SHARE = 0.8
"""Share of a device's free memory that is used where no budget is given: the rest is for others and for estimates."""

_UNITS = {"": 1, **{prefix: 1000**n for n, prefix in enumerate("kmgt", 1)}}
_UNITS |= {f"{prefix}i": 1024**n for n, prefix in enumerate("kmgt", 1)}
_CGROUP = Path("/sys/fs/cgroup")


class ByteBudget:
    """How many bytes may be used on each device.

    Args:
        limit: for the network's device; None for `FREE_SHARE` of what is free there, as it always is elsewhere.
        device: the network's.
    """

    def __init__(self, limit: int | None, device: torch.device) -> None:
        self.limit = limit
        self.device = device

    def available(self, device: torch.device) -> int:
        """Bytes that may be used on a device."""
        if self.limit is not None and device == self.device:
            return self.limit
        return int(FREE_SHARE * free_bytes(device))


def parse_bytes(size: int | float | str | None) -> int | None:
    """A number of bytes: as it is, or from a text such as "8GB", "512 MiB" or "1e9"; None stays None.

    Raises:
        SpecError: neither, or none at all.
    """
    if size is None:
        return None
    text = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?\s*", str(size).lower())
    try:
        count = int(float(text[1]) * _UNITS[text[2]]) if text else 0
    except (ValueError, KeyError):
        count = 0
    if count < 1:
        msg = f"memory_budget is {size!r}; give bytes, as a number or a text such as '8GB' or '512MiB', or None"
        raise SpecError(msg)
    return count


def format_bytes(count: int) -> str:
    """A number of bytes in the largest binary unit that leaves at least one of it, such as "3.2 GiB"."""
    for unit, scale in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; of the host for devices that do not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps what it has freed; that counts as used on the device.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(psutil.virtual_memory().available, _free_in_group())


def _free_in_group() -> float:
    """Bytes that the container of this process leaves, which `psutil` does not know; infinite where none limits it."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        # The cache of files counts as used there, and is given up when memory is asked for.
        cached = re.search(r"^inactive_file (\d+)$", (_CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no control group of version 2, or "max"
        return float("inf")
    return max(limit - used + (int(cached[1]) if cached else 0), 0)
