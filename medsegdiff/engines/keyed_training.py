"""What all trainers of this package share: randomness keyed by the epoch, and numbers that must be finite."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn
from torch.optim import Optimizer

from medsegdiff.data.noise import TrainingNoise, key_to_seed
from medsegdiff.engines.distributed import is_one_of_several, mean_over_processes
from medsegdiff.engines.run_settings import optimizer_settings, settings_of
from medsegdiff.errors import MedSegDiffError


class KeyedTraining:
    """Methods for a trainer of MONAI with a `seed`, so that a resumed run goes on as if uninterrupted."""

    seed: int
    state: Any
    data_loader: Any
    optimizer: Any
    time_sampler: Any
    ema: Any

    setting_names: tuple[str, ...] = ("seed", "max_grad_norm")
    """Attributes that decide what is learned: a run that is taken up again has them as it had before."""

    def settings(self) -> dict[str, Any]:
        """What decides on the steps of the optimisation, by name, as plain values for a checkpoint.

        The number of epochs, which a resumed run may change, is not among it, nor is the form of the learning rate's
        schedule, which depends on it.
        """
        settings = {name: getattr(self, name) for name in self.setting_names}
        settings |= optimizer_settings(self.optimizer)
        settings |= settings_of("time_sampler", self.time_sampler)
        settings["ema_decay"] = None if self.ema is None else getattr(self.ema, "decay", None)
        batch_size = getattr(self.data_loader, "batch_size", None)
        if batch_size is not None:
            settings["batch_size"] = batch_size * (torch.distributed.get_world_size() if is_one_of_several() else 1)
        return settings

    def start_epoch(self) -> None:
        """Key the randomness of layers by (seed, epoch, process); tell the data's sampler which epoch it is."""
        epoch, rank = self.state.epoch, self.state.rank
        torch.manual_seed(key_to_seed(self.seed, "layers", epoch, rank))
        sampler = getattr(self.data_loader, "sampler", None)
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def take_batch(self, batchdata: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, TrainingNoise]:
        """Image (B, channels, *S) and label (B, 1, *S) on the device, without metadata, and the batch's randomness.

        Batches without "sample" have the names of their place in the epoch, which another order would change.
        """
        trainer: Any = self
        image, label = trainer.prepare_batch(batchdata, self.state.device, trainer.non_blocking, **trainer.to_kwargs)
        image, label = without_metadata(image), without_metadata(label)
        place = f"{self.state.iteration}/{self.state.rank}"
        names = batchdata.get("sample") or [f"{place}/{n}" for n in range(len(image))]
        return image, label, TrainingNoise(self.seed, self.state.epoch, names, device=image.device)

    def step_optimizer(
        self, name: str, network: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, max_norm: float | None
    ) -> None:
        """One step of an optimiser on gradients of which all are finite.

        Args:
            name: of the network, for the message.
            network: whose gradients to clip together.
            optimizer: of its parameters.
            scaler: of the loss.
            max_norm: norm to clip to; None for none.

        Raises:
            MedSegDiffError: a gradient is NaN or infinite.
        """
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(network.parameters(), float("inf") if max_norm is None else max_norm)
        if not scaler.is_enabled():  # which else leaves such a step out by itself
            self.check_finite(f"norm of the gradient of the {name}", norm)
        scaler.step(optimizer)
        scaler.update()

    def shared_loss(self, name: str, loss: torch.Tensor) -> torch.Tensor:
        """The mean of a loss over all processes, without gradient: what one process alone would have and log.

        Raises:
            MedSegDiffError: it is NaN or infinite; on every process, so that none waits for the others.
        """
        mean = mean_over_processes(loss.detach())
        self.check_finite(name, mean)
        return mean

    def check_finite(self, name: str, value: torch.Tensor) -> None:
        """Stop before the optimiser's step: the weights would be lost, and the next checkpoint with them.

        Raises:
            MedSegDiffError: the value of this name is NaN or infinite.
        """
        if not torch.isfinite(value):
            msg = (
                f"the {name} became {value.item()} in epoch {self.state.epoch}, iteration {self.state.iteration}; "
                "training stopped and the last checkpoint stays: lower the learning rate or set amp to off"
            )
            raise MedSegDiffError(msg)


def without_metadata(tensor: torch.Tensor) -> torch.Tensor:
    """A plain tensor: MONAI's metadata have served, and would slow every operation down."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
