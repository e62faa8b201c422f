"""A Ray cluster, attached or of this run only, as the engine on Ray needs it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

from medsegdiff.cohort.resources import cores_each, default_workers, gpus_each
from medsegdiff.errors import SpecError

_LOCAL = "local"
_SECONDS_TO_ANSWER = 10.0
# Only reports of a few kilobytes pass through Ray: the memory is for the networks.
_OBJECT_STORE_BYTES = 100 * 1024**2
# Unless the user says otherwise, Ray sends no statistics home, gives workers the priority of this process, leaves
# `CUDA_VISIBLE_DEVICES` alone where no GPU is asked for, and does not write on standard output what died, and how,
# which is in its logs: the engine says what that means.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "A worker died or was killed|Raylet is terminated",
}


class RayCluster:
    """A connection to Ray, and the share of its cores and GPUs that each worker gets.

    A program that is connected to Ray already keeps its connection, and its cluster is used.

    Args:
        address: of a cluster; None for `$RAY_ADDRESS`, else a local Ray that ends with the connection.
        use_gpus: whether workers get GPUs where there are any.

    Attributes:
        threads: how many threads of torch each worker is to use, once the cluster is open.

    Raises:
        SpecError: Ray is not installed.
    """

    def __init__(self, address: str | None, *, use_gpus: bool) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # read when Ray is imported
        try:
            import ray
        except ImportError as error:
            msg = "engine 'ray' needs Ray, which is not installed; run pip install 'medsegdiff[ray]', or use in-process"
            raise SpecError(msg) from error
        self.threads = 1
        self._ray: Any = ray
        self._address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
        self._use_gpus = use_gpus
        self._share: dict[str, float] = {}
        self._ours = False

    def open(self, workers: int | None, *, most: int) -> int:
        """Connect, and share out cores and GPUs.

        Args:
            workers: how many workers will come; None for one a GPU, or without GPUs one for every four cores.
            most: more than this have nothing to do.

        Returns:
            How many workers to start.

        Raises:
            SpecError: no cluster answers.
        """
        if self._address == _LOCAL and not self._ray.is_initialized():
            return self._open_local(workers, most)
        if not self._ray.is_initialized():
            self._connect(address=self._address)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        cores = [node.get("CPU", 0) for node in nodes]
        gpus = [node.get("GPU", 0) for node in nodes] if self._use_gpus else []
        count = min(workers or default_workers(sum(cores), sum(gpus)), most)
        self._share = {"num_cpus": cores_each(cores, count), "num_gpus": gpus_each(gpus, count)}
        self.threads = max(1, int(self._share["num_cpus"]))
        return count

    def make_actor(self, kind: type, *arguments: Any) -> Any:
        """An actor with the share of a worker; it starts when the cluster has room."""
        return self._ray.remote(**self._share)(kind).remote(*arguments)

    def wait(self, tasks: Sequence[Any], *, timeout: float) -> tuple[Any, Any] | None:
        """The first task to end, with what it returned or the exception it ended in; None after `timeout` seconds."""
        ended, _ = self._ray.wait(list(tasks), num_returns=1, timeout=timeout)
        if not ended:
            return None
        try:
            return ended[0], self._ray.get(ended[0])
        except self._ray.exceptions.RayError as error:
            return ended[0], error

    def is_death(self, error: Exception) -> bool:
        """Whether a task ended because its worker or the node of that died, not because of what it did."""
        return not isinstance(error, self._ray.exceptions.RayTaskError)

    def kill(self, actor: Any) -> None:
        """End an actor, which may be dead already."""
        self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End the local Ray; a connection made here to another cluster is taken down, too."""
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def _open_local(self, workers: int | None, most: int) -> int:
        import torch

        cores = torch.get_num_threads()  # as many as one process would use here
        gpus = torch.cuda.device_count() if self._use_gpus else 0
        count = min(workers or default_workers(cores, gpus), most)
        # Ray starts a process for each of its CPUs at once, and workers are all that is needed.
        self._connect(
            address=_LOCAL,
            num_cpus=count,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
        )
        self._share = {"num_cpus": 1, "num_gpus": gpus_each([gpus], count)}
        self.threads = max(1, cores // count)
        return count

    def _connect(self, **options: Any) -> None:
        try:
            _knock(options["address"])
            self._ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:
            reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
            msg = (
                f"Ray at {self._address!r} does not answer ({reason.strip()}); start a cluster by ray start --head, "
                "give RAY_AUTH_TOKEN where it asks for one, or leave out --ray-address and RAY_ADDRESS for a local one"
            )
            raise SpecError(msg) from error
        self._ours = True


def _knock(address: str) -> None:
    """Make sure that somebody listens at HOST:PORT: Ray itself goes on trying for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER).close()
