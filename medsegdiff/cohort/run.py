"""A run over a cohort: which cases are to do, what came of each, and the manifest that outlives the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medsegdiff.cohort.case import Case
from medsegdiff.cohort.engine import DONE, LOST, STARTED, Engine, Event
from medsegdiff.cohort.manifest import Manifest, input_state
from medsegdiff.cohort.private import file_names, without_folders
from medsegdiff.cohort.settings import settings_digest
from medsegdiff.files import remove_unfinished_of

_TEXTS = ("error", "traceback")  # of what an engine tells of a case
# Of a record in the manifest, what a report says of the case; the rest serves the next run.
_REPORTED = ("status", "error", "outputs", "volumes", "steps", "stage_seconds", "worker", "attempt", "traceback")


class CohortRun:
    """Segments cases by an engine, and writes down what happens.

    Args:
        cases: with names that differ, and one folder for all results.
        engine: runs them; closing it is left to the caller.
        bundle: folder of the bundle.
        say: takes a line for the user.

    Attributes:
        settings: of the network, once it is loaded.
        seconds_to_load: how long that took.
        resumed: how many cases were done by an earlier run.
        retries: how many times a case was done again because its worker had died.
    """

    def __init__(self, cases: Sequence[Case], engine: Engine, *, bundle: Path, say: Callable[[str], None]) -> None:
        self.cases = list(cases)
        self.engine = engine
        self.bundle = bundle
        self.settings: dict[str, Any] = {}
        self.seconds_to_load = 0.0
        self.resumed = self.retries = 0
        self._say = say
        self._folder = self.cases[0].folder
        self._manifest = Manifest(self._folder)
        self._records: dict[str, dict[str, Any]] = {}
        self._earlier: set[str] = set()
        self._peaks: dict[str, float] = {}
        self._digest = ""

    def load(self) -> None:
        """Load the network.

        Raises:
            MedSegDiffError: it cannot be loaded as asked for.
        """
        started = time.perf_counter()
        self.settings = self.engine.start(len(self.cases))
        self.seconds_to_load = time.perf_counter() - started
        first = self.cases[0]
        self._digest = settings_digest(self.settings, self.bundle, first.kinds, output_format=first.output_format)

    def choose(self, *, resume: bool) -> list[Case]:
        """The cases to do: all of them, or on resuming those that are not done as they would be.

        Raises:
            DataError: the manifest cannot be read.
        """
        if not resume:
            return self.cases
        records, todo, reasons = self._manifest.read(), [], Counter[str]()
        for case in self.cases:
            record = records.get(case.name)
            reason = self._reason_to_do(case, record)
            if reason is None and record is not None:
                self._records[case.name] = record
                self._earlier.add(case.name)
                continue
            todo.append(case)
            reasons[reason or ""] += 1
            if record is not None:
                _remove_partial(case, str(record.get("worker")))
        self.resumed = len(self._earlier)
        counts = [f"{count} {reason}" for reason, count in reasons.items()]
        self._say(f"resume: {self.resumed} of {len(self.cases)} done already; to do: {', '.join(counts) or 'none'}")
        return todo

    def work(self, cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
        """Segment cases; the report's entry of each one that is done, or has failed, as that happens.

        Unlike in the report, what went wrong is told with the paths of the files.

        Raises:
            DataError: the manifest cannot be written.
        """
        states: dict[str, str] = {}
        for event in self.engine.work(cases):
            name = event.case.name
            if event.status == STARTED:
                # Should the image change while it is read, its state of before makes the next run notice.
                states[name] = input_state(event.case.files)
            record = self._record(event, states[name])
            self._manifest.append(record)
            if event.status == LOST:
                self.retries += 1
                _remove_partial(event.case, event.worker)
                self._say(f"warning: {event.details['error']}; the case is done again")
            elif event.status != STARTED:
                self._records[name] = record
                # Whoever sits before it is told the paths, too.
                yield self._entry(event.case) | {key: event.details[key] for key in _TEXTS if key in event.details}

    def entries(self) -> list[dict[str, Any]]:
        """The report's entries of all cases that are done or have failed, in the order of the cases."""
        return [self._entry(case) for case in self.cases if case.name in self._records]

    def peak_memory_mib(self) -> dict[str, float]:
        """The most memory that any one worker has used for the cases of this run; see `peak_memory_mib`."""
        return dict(self._peaks)

    def _reason_to_do(self, case: Case, record: Mapping[str, Any] | None) -> str | None:
        """Why a case has to be done, in words that follow a number; None where it is done already."""
        if record is None:
            return "new"
        status = record.get("status")
        if status != DONE:
            return "interrupted" if status in (STARTED, LOST) else "failed before"
        if record.get("settings") != self._digest:
            return "with other settings"
        if record.get("input_state") != input_state(case.files):
            return "with another image"
        if not all((self._folder / file).is_file() for file in record["outputs"].values()):
            return "without all results"
        return None

    def _record(self, event: Event, state: str) -> dict[str, Any]:
        details = dict(event.details)
        for kind, value in details.pop("peak_memory_mib", {}).items():
            self._peaks[kind] = max(self._peaks.get(kind, 0.0), value)
        paths = [*event.case.files, *event.case.output_paths().values()]
        details |= {key: without_folders(details[key], paths) for key in _TEXTS if key in details}
        return {
            "case": event.case.name,
            "status": event.status,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "input": file_names(event.case.files),
            "input_state": state,
            "settings": self._digest,
            "engine": self.engine.name,
            "worker": event.worker,
            "attempt": event.attempt,
            **details,
        }

    def _entry(self, case: Case) -> dict[str, Any]:
        record = self._records[case.name]
        entry = {"case": case.name, "input": file_names(case.files)}
        entry |= {key: record[key] for key in _REPORTED if key in record}
        return entry | ({"resumed": True} if case.name in self._earlier else {})


def _remove_partial(case: Case, worker: str) -> None:
    """Remove what a killed worker may have left of its results under temporary names (see `written_whole`)."""
    host, _, process = worker.rpartition(":")
    for path in case.output_paths().values():
        remove_unfinished_of(path, host=host, process=process)
