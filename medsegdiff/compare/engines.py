"""What does the tasks of a study: this process, several on this machine, or several on Ray.

The engines of `medsegdiff.cohort` hand images out to workers that have loaded one network; here every task has a
network of its own, and some wait for others. What they have in common, the cluster with its shares of cores and GPUs,
is used from there.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from medsegdiff.errors import DataError, SpecError

ENGINES = ("in-process", "ray")


class Engine(Protocol):
    """Does tasks, each a function of picklable arguments."""

    name: str
    workers: int

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begin a task; no more than `workers` may be under way."""

    def is_death(self, error: BaseException) -> bool:
        """Whether a task ended in this because its worker died, so that another worker may do it."""

    def close(self) -> None:
        """Let go of the workers."""


def make_engine(
    name: str,
    *,
    workers: int | None,
    device: str,
    most: int,
    address: str | None = None,
    must_see: Sequence[Path] = (),
) -> Engine:
    """The engine of a name.

    Args:
        name: "in-process", with several workers as many processes on this machine, or "ray".
        workers: how many tasks at once; None for one in-process, and on Ray for one a GPU or for every four cores.
        device: of the networks; "cpu" leaves GPUs to others.
        most: how many tasks there are for them.
        address: of a Ray cluster; None for `$RAY_ADDRESS`, else a local one.
        must_see: paths that every worker on Ray must see as they are seen here.

    Raises:
        SpecError: no such engine, or settings that do not go with it.
    """
    if name not in ENGINES:
        msg = f"engine {name!r} does not exist; use one of {', '.join(ENGINES)}"
        raise SpecError(msg)
    if name == "ray":
        return OnRay(workers=workers, device=device, most=most, address=address, must_see=must_see)
    if address is not None:
        msg = f"got --ray-address {address} with the engine in-process; add --engine ray"
        raise SpecError(msg)
    workers = min(workers or 1, max(1, most))
    return InProcess() if workers == 1 else Processes(workers)


class InProcess:
    """Does a task at once, in this process."""

    name = "in-process"
    workers = 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Do a task; see `Engine.submit`."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001  # as any executor: whoever asks for the result gets it
            future.set_exception(error)
        return future

    def is_death(self, _error: BaseException) -> bool:
        """Never: this process would be dead, too."""
        return False

    def close(self) -> None:
        """Nothing to let go of."""


class Processes:
    """Does tasks in several processes on this machine, which share its cores.

    Args:
        workers: how many.
    """

    name = "in-process"

    def __init__(self, workers: int) -> None:
        import torch

        self.workers = workers
        self._threads = max(1, torch.get_num_threads() // workers)
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begin a task; see `Engine.submit`."""
        if self._pool is None:
            # A forked child of a process that has used torch's threads, or a GPU, may hang.
            self._pool = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_set_threads,
                initargs=(self._threads,),
            )
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:  # a process died, and with it the pool
            self._pool = None
            return self.submit(function, *arguments)

    def is_death(self, error: BaseException) -> bool:
        """See `Engine.is_death`."""
        return isinstance(error, BrokenProcessPool)

    def close(self) -> None:
        """End the processes, tasks that wait included."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


class OnRay:
    """Does tasks by Ray actors, on this machine or a cluster whose nodes share the files.

    Args:
        workers: how many; None for one a GPU, or without GPUs one for every four cores.
        device: of the networks.
        most: how many tasks there are for them.
        address: of a cluster.
        must_see: paths that every worker must see.

    Raises:
        SpecError: Ray is missing or cannot be reached, or a device that Ray chooses itself.
    """

    name = "ray"

    def __init__(
        self, *, workers: int | None, device: str, most: int, address: str | None, must_see: Sequence[Path]
    ) -> None:
        from medsegdiff.cohort.ray_cluster import RayCluster

        if ":" in device:
            msg = f"device {device!r} names one GPU, which Ray chooses for each worker; use auto, cpu or cuda"
            raise SpecError(msg)
        self._cluster = RayCluster(address, use_gpus=device != "cpu")
        self._must_see = list(must_see)
        self.workers = self._cluster.open(workers, most=max(1, most))
        self._idle: list[Any] = []
        self._busy: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begin a task; see `Engine.submit`."""
        # Here and not in a callback of the future: that runs in a thread of Ray, in which calls of Ray hang.
        self._take_back()
        if not self._idle:
            self._idle.append(self._cluster.make_actor(StudyWorker, self._cluster.threads, self._must_see))
        actor = self._idle.pop()
        future: Future[Any] = actor.work.remote(function, arguments).future()
        self._busy[future] = actor
        return future

    def is_death(self, error: BaseException) -> bool:
        """See `Engine.is_death`."""
        return isinstance(error, Exception) and self._cluster.is_death(error)

    def close(self) -> None:
        """End the workers, and the local Ray."""
        for actor in [*self._idle, *self._busy.values()]:
            self._cluster.kill(actor)
        self._idle, self._busy = [], {}
        self._cluster.close()

    def _take_back(self) -> None:
        """Have the actors whose tasks ended; one that ended in an error is dead, or in nobody knows which state."""
        for future in [future for future in self._busy if future.done()]:
            actor = self._busy.pop(future)
            if future.exception() is None:
                self._idle.append(actor)
            else:
                self._cluster.kill(actor)


class StudyWorker:
    """What a Ray actor does: one task after another.

    Args:
        threads: of torch.
        must_see: paths that are there where the study was started.

    Raises:
        DataError: one of them is not seen from here.
    """

    def __init__(self, threads: int, must_see: Sequence[Path]) -> None:
        _set_threads(threads)
        self._missing = next((path for path in must_see if not path.exists()), None)

    def work(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Do a task."""
        if self._missing is not None:
            import socket

            msg = (
                f"{self._missing}: a worker on {socket.gethostname()} does not see it; put study, bundle, data and "
                "--output on a file system that all nodes share, under the same paths"
            )
            raise DataError(msg)
        return function(*arguments)


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
