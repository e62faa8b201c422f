"""How much memory this process has used."""

from __future__ import annotations

import sys

_MIB = 1024**2


def peak_memory_mib() -> dict[str, float]:
    """The most memory used so far, in MiB: "process" (not on Windows), and "gpu" where torch used one."""
    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there and in KiB elsewhere
        peaks["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB, 1)
    torch = sys.modules.get("torch")  # it takes seconds to import, and has used nothing where nobody has
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / _MIB, 1)
    return peaks
