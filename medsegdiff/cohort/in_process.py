"""Cases one after another in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medsegdiff.cohort.case import Case
from medsegdiff.cohort.engine import STARTED, Event
from medsegdiff.cohort.worker import Load, Worker


class InProcess:
    """Runs cases one after another in this process, which a defect ends.

    Args:
        load: makes the predictor.
    """

    name = "in-process"
    workers = 1

    def __init__(self, load: Load) -> None:
        self._worker = Worker(load)
        self._name = ""

    def start(self, most: int) -> dict[str, Any]:
        """Load the network; see `Engine.start`."""
        self._name, settings = self._worker.start()
        return settings

    def work(self, cases: Sequence[Case]) -> Iterator[Event]:
        """Segment the cases; see `Engine.work`."""
        for case in cases:
            yield Event(case, STARTED, self._name)
            details = self._worker.segment(case)
            yield Event(case, details.pop("status"), self._name, details=details)

    def close(self) -> None:
        """Nothing to let go of."""
