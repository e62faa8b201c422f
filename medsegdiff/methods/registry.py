"""The registry of methods: which parts make up a segmenter of a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medsegdiff.errors import SpecError
from medsegdiff.methods.run_spec import RunSpec
from medsegdiff.methods.training_settings import TrainingSettings
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
        task_schedules: schedules in place of that one for tasks that its paper treats otherwise.
        codec: "one_hot", "single_channel", or "auto" for a single channel where there are two classes.
        prediction: "logits", "tanh", "epsilon" or "v".
        time_sampler: how training draws t, "importance" or "uniform".
        prediction_options: see `medsegdiff.networks.prediction.build_prediction`.
        size_predictions: name and settings of the prediction in place of those, for sizes that train better by another.
        steps: number of visited time steps that its paper samples in; a run may choose another.
        draws: number of segmentations that its paper averages.
        sampler: the sampler of its paper.
        sampler_options: further options of that sampler.
        adam_betas: decays of Adam's two moments that it trains well with.
        size_training: how its paper trains, for sizes that follow it.
    """

    name: str
    summary: str
    build_denoiser: DenoiserBuilder
    strategy: str
    schedule: dict[str, Any] | None
    task_schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    codec: str = "one_hot"
    prediction: str = "logits"
    time_sampler: str = "importance"
    prediction_options: dict[str, Any] = field(default_factory=dict)
    size_predictions: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: int = 5
    draws: int = 1
    sampler: str = "ddpm"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    size_training: dict[str, TrainingSettings] = field(default_factory=dict)

    def schedule_for(self, task: str) -> dict[str, Any] | None:
        """Name and settings of the noise schedule of a task; None for a supervised method."""
        return self.task_schedules.get(task, self.schedule)

    def prediction_for(self, size: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Name and settings of the prediction of a size.

        Args:
            size: of the network, "small" or "paper".
            options: settings in place of the method's; with the `name` of another kind, all settings are that kind's.
        """
        own = {"name": self.prediction, **self.prediction_options}
        own = self.size_predictions.get(size, own)
        options = options or {}
        if options.get("name", own["name"]) != own["name"]:
            return dict(options)
        return {**own, **options}

    def steps_for(self, task: str, schedule: Mapping[str, Any] | None = None) -> int:
        """The number of steps of its paper, or T where a schedule has fewer.

        Args:
            task: name of the task.
            schedule: settings of a schedule in place of the task's.
        """
        settings = schedule or self.schedule_for(task) or {}
        return min(self.steps, settings.get("num_train_timesteps", self.steps))

    def training_for(self, size: str) -> TrainingSettings:
        """How a network of a size, "small" or "paper", is trained."""
        return self.size_training.get(size, TrainingSettings())


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
