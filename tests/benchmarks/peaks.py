"""The most memory that sampling takes, each number of draws in a process of its own: a process's peak never falls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from medsegdiff.memory import peak_memory_mib


def peak_mib(device: str) -> float:
    """MiB at most of this process so far: of the device, or resident on a CPU."""
    return peak_memory_mib()["gpu" if device.startswith("cuda") else "process"]


def peaks_of_draws(script: str, given: Sequence[str], draws: Sequence[int]) -> list[float]:
    """What a benchmark prints for each number of draws, when it is started again with `--memory-of`."""
    commands = [[sys.executable, script, *given, "--memory-of", str(number)] for number in draws]
    return [float(subprocess.run(c, check=True, stdout=subprocess.PIPE, text=True).stdout) for c in commands]
