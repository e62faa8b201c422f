"""How the cores and GPUs of a cluster are shared out among workers."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Convolutions gain little from more threads than this: further cores are better spent on further workers.
CORES_A_WORKER = 4


def default_workers(cores: float, gpus: float) -> int:
    """One worker for each GPU; without any, one for every four cores."""
    return max(1, int(gpus) or int(cores) // CORES_A_WORKER)


def cores_each(node_cores: Sequence[float], workers: int) -> float:
    """The most cores that each worker can have so that all of them find a place at once.

    A worker stays on one node. Where there are more workers than cores, each has the same fraction of one.

    Args:
        node_cores: cores of each node.
        workers: how many workers, at least 1.
    """
    for cores in range(int(max(node_cores, default=0)), 0, -1):
        if sum(int(have) // cores for have in node_cores) >= workers:
            return float(cores)
    return _fraction_each([int(have) for have in node_cores], workers)


def gpus_each(node_gpus: Sequence[float], workers: int) -> float:
    """The GPU of each worker, or the fraction of one where there are more workers than GPUs; 0 without GPUs.

    Args:
        node_gpus: GPUs of each node.
        workers: how many workers, at least 1.
    """
    return _fraction_each([int(have) for have in node_gpus], workers)


def _fraction_each(units: Sequence[int], workers: int) -> float:
    """1, or the largest 1/n, so that as many find a place; 0 where there are no units."""
    return 1 / max(1, math.ceil(workers / sum(units))) if sum(units) else 0.0
