"""How long a training step takes, measured before training."""

from __future__ import annotations

import tempfile
import time

from ignite.engine import Events

from medsegdiff.compare.runs import Training
from medsegdiff.data.bundle_config import TRAIN_CONFIG, read_bundle_config
from medsegdiff.errors import plain_user_errors

WARM_UP = 2


def measure_step_seconds(training: Training, *, batches: int = 6) -> float:
    """Seconds of one optimiser step of a run, on the device and with the threads that it will be trained with.

    Loading, validation and checkpoints are not in it. A few cases are used again and again, so that none is waited for.

    Args:
        training: how the run is trained.
        batches: how many are timed, after two that are not.

    Raises:
        MedSegDiffError: the settings do not make a training.
    """
    few = max(2, 2 * training.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **training.arguments,
            "run_dir": folder,
            "epochs": 1,
            "resume": False,
            "train#handlers": [],
            "train#dataset#data": f"$@datalists['training'][:{few}]",
            "train#trainer#epoch_length": WARM_UP + batches,
        }
        parser = read_bundle_config(training.bundle, TRAIN_CONFIG, settings)
        with plain_user_errors():
            trainer = parser.get_parsed_content("train#trainer")
        times = []

        def note(_engine: object) -> None:
            times.append(time.perf_counter())

        trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
        trainer.run()
    return (times[-1] - times[WARM_UP - 1]) / batches * training.accumulation
