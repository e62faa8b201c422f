"""The report of a run: what ran, on what, how long, and what came of each case."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.cohort.private import file_names, without_folders
from medsegdiff.data.writer import written_whole
from medsegdiff.memory import peak_memory_mib
from medsegdiff.notice import RESEARCH_ONLY

if TYPE_CHECKING:
    from medsegdiff.cohort.run import CohortRun

REPORT_NAME = "report.json"


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


def complete_report(
    run: CohortRun, failures: Sequence[Mapping[str, Any]], *, model: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """The report of a run over a cohort.

    Args:
        run: what was done, also where it was interrupted.
        failures: entries of inputs that stand for no case; "input" is a path or several.
        model: see `describe_model`.
        seconds: how long it all took.

    Returns:
        What it is for, versions, the model and its settings, an entry for each case, how many are done (in all, and by
        an earlier run) and failed, how often a case was done again because its worker had died, times, and the most
        memory that one process used.
    """
    cases = [*map(_without_folders, failures), *run.entries()]
    failed = sum("error" in entry for entry in cases)
    return {
        "notice": RESEARCH_ONLY,
        "versions": versions(),
        "bundle": run.bundle.resolve().name,
        "model": dict(model),
        "cases": cases,
        "settings": {**run.settings, "members": [_without_folder(one) for one in run.settings["members"]]},
        "engine": run.engine.name,
        "workers": run.engine.workers,
        "seconds_to_load": round(run.seconds_to_load, 3),
        "done": len(cases) - failed,
        "resumed": run.resumed,
        "failed": failed,
        "retries": run.retries,
        "seconds": round(seconds, 3),
        "peak_memory_mib": run.peak_memory_mib() or peak_memory_mib(),
    }


def _without_folder(member: Mapping[str, Any]) -> dict[str, Any]:
    return {**member, "weights": Path(member["weights"]).name}


def _without_folders(failure: Mapping[str, Any]) -> dict[str, Any]:
    given = failure["input"]
    paths = [Path(given)] if isinstance(given, str) else [Path(path) for path in given]
    return {**failure, "input": file_names(paths), "error": without_folders(failure["error"], paths)}


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.json`, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    path = folder / REPORT_NAME
    with written_whole(path) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path
