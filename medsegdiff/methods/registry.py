"""The registry of methods: which parts make up a segmenter of a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from medsegdiff.errors import SpecError
from medsegdiff.methods.run_spec import RunSpec
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.schedulers import NoiseSchedule

# (spec, channels of x_t, schedule) -> denoiser; a supervised method has no channels of x_t and no schedule.
DenoiserBuilder = Callable[[RunSpec, int, NoiseSchedule | None], Denoiser]


@dataclass(frozen=True)
class Method:
    """A denoiser with its schedule, codec, kind of prediction and training strategy.

    Attributes:
        name: as typed behind `--method`.
        summary: one line for listings.
        build_denoiser: makes the network from the run's specification.
        strategy: name of the training strategy, see `medsegdiff.engines.strategies`.
        schedule: name and settings of the noise schedule; None for a supervised method.
        codec: "one_hot" or "single_channel".
        prediction: "logits", "tanh", "epsilon" or "v".
        time_sampler: how training draws t, "importance" or "uniform".
    """

    name: str
    summary: str
    build_denoiser: DenoiserBuilder
    strategy: str
    schedule: dict[str, Any] | None
    codec: str = "one_hot"
    prediction: str = "logits"
    time_sampler: str = "importance"
    prediction_options: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method under its name.

    Raises:
        SpecError: the name is taken.
    """
    if method.name in METHODS:
        msg = f"method {method.name!r} is registered already; give another name"
        raise SpecError(msg)
    METHODS[method.name] = method
    return method


def get_method(name: str) -> Method:
    """The method of a name.

    Raises:
        SpecError: no such method; the message lists those there are.
    """
    if name not in METHODS:
        msg = f"method {name!r} does not exist; use one of {', '.join(METHODS)}"
        raise SpecError(msg)
    return METHODS[name]
