"""Wall times of calls made in turn, and of what a network takes of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call, the device's queue emptied before and after."""
    _empty_queue()
    started = time.perf_counter()
    call()
    _empty_queue()
    return time.perf_counter() - started


def alternate(rounds: int, **calls: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each call, made in turn, so that a drift of the machine touches all alike."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def timed_network(network: torch.nn.Module) -> Iterator[list[float]]:
    """Collect the wall time of every call of `network` and of its `encode` while the context lasts."""
    times: list[float] = []

    def timed(call: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapper(*args: object, **kwargs: object) -> torch.Tensor:
            _empty_queue()
            started = time.perf_counter()
            output = call(*args, **kwargs)
            _empty_queue()
            times.append(time.perf_counter() - started)
            return output

        return wrapper

    network.forward, network.encode = timed(network.forward), timed(network.encode)
    try:
        yield times
    finally:
        del network.forward, network.encode  # those of the class show again


def _empty_queue() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
