"""Cases shared out among workers on Ray, on this machine or a cluster; a worker that dies costs one case's time."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsegdiff.cohort.case import Case
from medsegdiff.cohort.engine import FAILED, LOST, STARTED, Event
from medsegdiff.cohort.ray_cluster import RayCluster
from medsegdiff.cohort.worker import Load, Worker
from medsegdiff.errors import SpecError, find_user_error, one_line

RETRIES = 2
_PATIENCE = 60.0  # seconds without any worker after which the user is told
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(eq=False)
class _Slot:
    """The place of one worker; one that dies is replaced by another."""

    actor: Any = None
    name: str = ""
    failed_starts: int = 0


@dataclass(frozen=True)
class _Job:
    """What a worker is at: a case, or its own start."""

    slot: _Slot
    case: Case | None = None
    attempt: int = 1


class OnRay:
    """Runs cases by Ray actors, each of which loads the network once.

    A free worker gets the next case, and no worker holds more than one. The case of a worker that dies (killed, out of
    memory, a node lost) goes to another, up to `RETRIES` times, and the worker is replaced. A worker in which a defect
    showed is replaced too, as nobody knows what state it is in, but the case is not done again. Workers start when the
    cluster has room for them: until then the run goes on with those that it has.

    Args:
        load: makes the predictor, on the worker; picklable, with absolute paths.
        workers: how many; None for one a GPU, or without GPUs one for every four cores.
        address: of a cluster ("auto" for the one on this machine, "ray://host:port"); None for `$RAY_ADDRESS`, else a
            local Ray for this run only.
        device: of the network; "cpu" leaves GPUs to others.
        must_see: paths that every worker must see as they are seen here.
        say: takes a line for the user.

    Raises:
        SpecError: Ray is missing or cannot be reached, or a setting that does not go with it.
    """

    name = "ray"

    def __init__(
        self,
        load: Load,
        *,
        workers: int | None = None,
        address: str | None = None,
        device: str = "auto",
        must_see: Sequence[Path] = (),
        say: Callable[[str], None],
    ) -> None:
        if ":" in device:
            msg = f"device {device!r} names one GPU, which Ray chooses for each worker; use auto, cpu or cuda"
            raise SpecError(msg)
        self._load, self._say = load, say
        self._must_see = [Path(os.path.abspath(path)) for path in must_see]
        self._cluster = RayCluster(address, use_gpus=device != "cpu")
        self._wanted = workers
        self.workers = 0  # until they are started
        self._jobs: dict[Any, _Job] = {}
        self._idle: list[_Slot] = []

    def start(self, most: int) -> dict[str, Any]:
        """Start the workers and wait for the first; see `Engine.start`."""
        self.workers = self._cluster.open(self._wanted, most=most)
        for _ in range(self.workers):
            self._launch(_Slot())
        while True:
            job, outcome = self._next()
            if not isinstance(outcome, Exception):
                return self._loaded(job, outcome)
            self._start_again(job, outcome, only=True)

    def work(self, cases: Sequence[Case]) -> Iterator[Event]:
        """Segment the cases; see `Engine.work`."""
        queue = deque((case, 1) for case in cases)
        while queue or any(job.case for job in self._jobs.values()):
            while queue and self._idle:
                slot, (case, attempt) = self._idle.pop(), queue.popleft()
                yield Event(case, STARTED, slot.name, attempt)
                self._jobs[slot.actor.segment.remote(case.absolute())] = _Job(slot, case, attempt)
            job, outcome = self._next()
            if job.case is None:
                if isinstance(outcome, Exception):
                    self._start_again(job, outcome, only=False)
                else:
                    self._loaded(job, outcome)
                continue
            event = self._event(Event(job.case, FAILED, job.slot.name, job.attempt), outcome)
            if isinstance(outcome, Exception):
                if event.status == LOST:
                    queue.appendleft((job.case, job.attempt + 1))
                self._cluster.kill(job.slot.actor)
                if queue:
                    self._launch(job.slot)
            else:
                self._idle.append(job.slot)
            yield event

    def close(self) -> None:
        """End the workers, and the local Ray."""
        for slot in [*self._idle, *(job.slot for job in self._jobs.values())]:
            self._cluster.kill(slot.actor)
        self._idle, self._jobs = [], {}
        self._cluster.close()

    def _launch(self, slot: _Slot) -> None:
        slot.actor = self._cluster.make_actor(Worker, self._load)
        start = slot.actor.start.remote(threads=self._cluster.threads, must_see=self._must_see)
        self._jobs[start] = _Job(slot)

    def _next(self) -> tuple[_Job, Any]:
        """The next job to end, and what it returned, or the exception in which it ended."""
        if not self._jobs:
            msg = (
                "no worker is left: each died when it loaded the network, mostly because the memory does not suffice; "
                "give fewer --workers"
            )
            raise SpecError(msg)
        while (ended := self._cluster.wait(list(self._jobs), timeout=_PATIENCE)) is None:
            if all(job.case is None for job in self._jobs.values()) and not self._idle:
                self._say("waiting: no worker has loaded the network yet; ray status shows what is free in a cluster")
        return self._jobs.pop(ended[0]), ended[1]

    def _loaded(self, job: _Job, outcome: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        job.slot.name, settings = outcome
        job.slot.failed_starts = 0
        self._idle.append(job.slot)
        return settings

    def _start_again(self, job: _Job, error: Exception, *, only: bool) -> None:
        """Deal with a worker that has not come up, which is the end of the run where there is no other so far."""
        self._cluster.kill(job.slot.actor)
        if not self._cluster.is_death(error):
            user_error = find_user_error(_cause(error))
            if only or user_error is None:
                raise user_error or error
            self._say(f"warning: going on without a worker: {one_line(user_error)}")
            return
        job.slot.failed_starts += 1
        if job.slot.failed_starts <= RETRIES:
            self._launch(job.slot)
        else:
            self._say(f"warning: going on without a worker that died {job.slot.failed_starts} times as it started")

    def _event(self, failure: Event, outcome: Any) -> Event:
        """What the end of a job means for its case, from the event that says the worst."""
        if not isinstance(outcome, Exception):
            return replace(failure, status=outcome.pop("status"), details=outcome)
        path = failure.case.path
        if not self._cluster.is_death(outcome):
            cause = _cause(outcome)
            error = f"{path}: {type(cause).__name__}: {one_line(cause)}; this is a defect of the program: report it"
            return replace(failure, details={"error": error, "traceback": _COLOUR.sub("", str(outcome))})
        if failure.attempt <= RETRIES:
            return replace(failure, status=LOST, details={"error": f"{path}: the worker {failure.worker} died"})
        error = (
            f"{path}: {failure.attempt} workers died of this image, mostly because the memory does not suffice; give "
            "fewer --workers or --draws"
        )
        return replace(failure, details={"error": error})


def _cause(error: Exception) -> BaseException:
    """What was raised on the worker."""
    return getattr(error, "cause", None) or error
