"""What training shows while it runs: a progress bar for each epoch, and means over it."""

from __future__ import annotations

from functools import partial
from typing import Any

from ignite.engine import Engine
from ignite.handlers import ProgressBar
from ignite.metrics import Average

LOSS = "loss"


class EpochProgress:
    """Ignite's progress bar (tqdm) over the iterations of an epoch, showing the loss; on the first process only.

    Args:
        persist: leave the bar of a finished epoch on the screen.
    """

    def __init__(self, *, persist: bool = False) -> None:
        self.persist = persist

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output has a "loss"."""
        if getattr(engine.state, "rank", 0) == 0:
            bar = ProgressBar(persist=self.persist, desc="epoch")
            bar.attach(engine, output_transform=lambda output: {LOSS: scalar_of(output, LOSS)})


class EpochMeans:
    """Means over an epoch of what the trainer puts into its output, as metrics of the trainer.

    Handlers that come after it, such as MONAI's `StatsHandler` and `TensorBoardStatsHandler`, print and draw them.
    A trainer names them in its attribute `scalars`; without one it is the loss alone.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        for name in getattr(engine, "scalars", (LOSS,)):
            Average(output_transform=partial(scalar_of, name=name)).attach(engine, name)


def scalar_of(output: Any, name: str) -> float:
    """One number of a trainer's output, which MONAI hands over as a list of one dictionary a sample."""
    first = output[0] if isinstance(output, list) else output
    return float(first[name])
