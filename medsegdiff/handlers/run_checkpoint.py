"""Checkpoints from which a run goes on exactly."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from medsegdiff.engines.trainer import DiffusionTrainer
from medsegdiff.errors import DataError, SpecError
from medsegdiff.files import remove_unfinished, written_whole
from medsegdiff.flags import as_bool
from medsegdiff.methods import RunSpec

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint.pt"


class RunCheckpoint:
    """Writes `checkpoint.pt` of a run after every so many epochs and, where asked, takes it up at the start.

    The file holds the trainer's own state (networks, optimiser, learning rate, EMA, importance history, gradient
    scaler) and settings, epoch and iteration, and further stateful objects such as an early stop. It is written under
    a temporary name and renamed, so that a killed process leaves the previous one whole. Only the first process
    writes.

    Args:
        run_dir: folder of the run.
        spec: what the run trains; a checkpoint of another is refused.
        resume: start from the folder's checkpoint where there is one; "true" or "false" as typed on a command line.
        interval: epochs between two checkpoints; the last epoch is always written.
        extra: further objects with `state_dict` and `load_state_dict`, by name.

    Raises:
        SpecError: `resume` is neither true nor false.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        spec: RunSpec,
        *,
        resume: bool | str = False,
        interval: int = 1,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(run_dir) / CHECKPOINT_NAME
        self.spec = spec
        self.resume = as_bool(resume, "resume")
        self.interval = interval
        self.extra = dict(extra or {})

    def attach(self, engine: Engine) -> None:
        """Attach to a `DiffusionTrainer`."""
        engine.add_event_handler(Events.STARTED, self.start)
        # Behind validation, which is attached to the same event and may change the early stop's counters; MONAI's
        # handlers are attached in the order of their list, and this one stands last in the bundles.
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def start(self, engine: DiffusionTrainer) -> None:
        """Take up the checkpoint, or warn that a run stands in the folder already."""
        if engine.state.rank == 0:
            remove_unfinished(self.path.parent)
        if not self.resume:
            if self.path.exists():
                logger.warning(
                    "%s exists: it and the weights beside it will be overwritten; give --resume true to go on from it",
                    self.path,
                )
            return
        if not self.path.exists():
            logger.info("nothing to resume at %s: training starts anew", self.path)
            return
        state = self._read()
        self._check(state, engine)
        for name, owner in self._objects(engine).items():
            if name not in state["objects"]:
                msg = f"{self.path} holds no {name!r}, which this run needs; resume with the settings of the first run"
                raise SpecError(msg)
            owner.load_state_dict(state["objects"][name])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        logger.info("resumed %s after epoch %d", self.path, state["epoch"])

    def save(self, engine: DiffusionTrainer) -> None:
        """Write the checkpoint where its turn has come."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        if engine.state.rank == 0:
            self.write(engine)

    def write(self, engine: DiffusionTrainer) -> None:
        """Write the checkpoint now, whole or not at all."""
        state = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "spec": self.spec.to_dict(),
            "settings": engine.settings(),
            "objects": {name: owner.state_dict() for name, owner in self._objects(engine).items()},
        }
        with written_whole(self.path, advice="free space, or choose another --ckpt_dir") as partial:
            torch.save(state, partial)

    def _objects(self, engine: DiffusionTrainer) -> dict[str, Any]:
        return {**engine.stateful_objects(), **self.extra}

    def _read(self) -> dict[str, Any]:
        try:
            # Optimiser and scheduler states are plain containers of tensors and numbers.
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever unpickling a broken file raises
            msg = f"{self.path} cannot be read as a checkpoint ({type(error).__name__}); delete it or start elsewhere"
            raise DataError(msg) from error
        return state

    def _check(self, state: dict[str, Any], engine: DiffusionTrainer) -> None:
        settings = state.get("settings", {})
        before = {**state["spec"], **settings}
        # Checkpoints of before a setting was kept do not hold it.
        now = {**self.spec.to_dict(), **{name: value for name, value in engine.settings().items() if name in settings}}
        if "learning_rate" not in settings and str(before.get("split")).startswith("seeded"):
            # Checkpoints of that time call a split so that the data's own dataset.json names.
            logger.warning("%s is of a split by dataset.json or seed, this run of %s", self.path, now.pop("split"))
        for name in now:
            if name != "version" and before.get(name) != now[name]:
                msg = (
                    f"{self.path} is of a run with {name}={before.get(name)!r}, this one has {now[name]!r}; "
                    "resume with the settings of the first run, or choose another --ckpt_dir"
                )
                raise SpecError(msg)
        epoch, iteration, epoch_length = state["epoch"], state["iteration"], engine.state.epoch_length
        if epoch_length is not None and iteration != epoch * epoch_length:
            msg = (
                f"{self.path} is of a run with {iteration // max(epoch, 1)} iterations an epoch, this one has "
                f"{epoch_length}; resume with the data and batch size of the first run, or choose another --ckpt_dir"
            )
            raise SpecError(msg)
