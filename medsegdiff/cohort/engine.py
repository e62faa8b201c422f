"""What runs the cases of a cohort, as the cohort sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from medsegdiff.cohort.case import Case

STARTED, LOST, DONE, FAILED = "started", "lost", "done", "failed"


@dataclass(frozen=True)
class Event:
    """Something that happened to a case.

    Attributes:
        case: which.
        status: "started"; "lost" with its worker, and done again; "done"; or "failed" for good.
        worker: where, as "host:process id".
        attempt: 1, and one more after each loss.
        details: what `segment_case` tells of it, "error" of a loss or failure, "traceback" of a defect.
    """

    case: Case
    status: str
    worker: str
    attempt: int = 1
    details: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Runs cases by one worker or several."""

    name: str
    workers: int

    def start(self, most: int) -> dict[str, Any]:
        """Load the network, in no more than `most` workers, and return its settings.

        Raises:
            MedSegDiffError: it cannot be loaded as asked for.
        """

    def work(self, cases: Sequence[Case]) -> Iterator[Event]:
        """Segment the cases; no case begins before the event that says so was taken."""

    def close(self) -> None:
        """Let go of the workers."""
