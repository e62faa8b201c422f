"""The report of a run: what ran, on what, how long, and what came of each case."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsegdiff.data.writer import written_whole

REPORT_NAME = "report.json"
_MIB = 1024**2


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    import monai
    import torch

    import medsegdiff

    return {
        "medsegdiff": medsegdiff.__version__,
        "monai": monai.__version__,
        "torch": str(torch.__version__),
        "python": sys.version.split()[0],
    }


def peak_memory_mib() -> dict[str, float]:
    """The most memory used so far, in MiB: "process" (not on Windows), and "gpu" where torch used one."""
    import torch

    peaks = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there and in KiB elsewhere
        peaks["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB, 1)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["gpu"] = round(torch.cuda.max_memory_allocated() / _MIB, 1)
    return peaks


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.json`, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    path = folder / REPORT_NAME
    with written_whole(path) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path
