"""A progress bar for each epoch."""

from __future__ import annotations

from ignite.engine import Engine
from ignite.handlers import ProgressBar


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
            bar.attach(engine, output_transform=_loss_of)


def _loss_of(output: object) -> dict[str, float]:
    # MONAI hands over a list of one dictionary a sample once it has taken the batch apart.
    first = output[0] if isinstance(output, list) else output
    return {"loss": float(first["loss"])}  # type: ignore[index]
