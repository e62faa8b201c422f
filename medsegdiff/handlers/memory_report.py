"""What training will take of the memory, said before it takes it, and what it has taken in the end."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys

from medsegdiff.engines.training_memory import training_memory
from medsegdiff.inferers.byte_budget import format_bytes, free_bytes
from medsegdiff.memory import peak_memory_mib
from medsegdiff.networks.wrapping import unwrapped

logger = logging.getLogger(__name__)


class MemoryReport:
    """Logs an estimate of the memory when the first batch is there, and the peak when training has ended.

    Only the first process reports, of itself.
    """

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer of this package."""
        if getattr(engine.state, "rank", 0) == 0:
            engine.add_event_handler(Events.ITERATION_STARTED(once=1), self.estimate)
            engine.add_event_handler(Events.COMPLETED, self.report)

    def estimate(self, trainer: Any) -> None:
        """Log what a step on the batch that the trainer has at hand will take, and warn where it is not there."""
        device = torch.device(trainer.state.device)
        shape = tuple(trainer.state.batch[Keys.IMAGE].shape)
        memory = training_memory(
            trainer.segmenter,
            shape,
            device,
            discriminator=unwrapped(getattr(trainer, "discriminator", None)),
            averaged=trainer.ema is not None,
        )
        free, needed = free_bytes(device), memory.weights + memory.step
        step = format_bytes(memory.step) if memory.step else "an unknown amount"
        logger.info(
            "training on batches of %s takes about %s for the weights and %s for a step; %s are free on %s",
            " x ".join(map(str, shape)),
            format_bytes(memory.weights),
            step,
            format_bytes(free),
            device,
        )
        if needed > free:
            logger.warning(
                "training may need %s of memory and %s are free on %s: take a smaller batch_size (with more "
                "accumulation_steps) or patch_size, or --network_options \"{'gradient_checkpointing': True}\"",
                format_bytes(needed),
                format_bytes(free),
                device,
            )

    def report(self, trainer: Any) -> None:
        """Log the most memory that was used."""
        peaks = ", ".join(f"{format_bytes(int(mib * 2**20))} ({kind})" for kind, mib in peak_memory_mib().items())
        logger.info("peak memory so far: %s", peaks or "unknown")
