"""The trainer of every method with one network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents, default_prepare_batch
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from medsegdiff.engines.distributed import is_one_of_several
from medsegdiff.engines.importance import TimeSampler, build_time_sampler
from medsegdiff.engines.keyed_training import KeyedTraining
from medsegdiff.engines.run_settings import settings_of
from medsegdiff.engines.strategies import TAKES_FIRST_PASS, StrategyOutput, get_strategy, num_times
from medsegdiff.errors import SpecError
from medsegdiff.losses.segmentation import RegressionLoss, SegmentationLoss
from medsegdiff.methods import Method, get_method
from medsegdiff.networks.blocks.autocast import amp_dtype
from medsegdiff.networks.segmenter import DiffusionSegmenter
from medsegdiff.networks.wrapping import unwrapped


class DiffusionTrainer(KeyedTraining, SupervisedTrainer):
    """A MONAI trainer whose step is a strategy: draw t, make the noisy mask, predict, weigh the loss.

    All randomness of a step is keyed by (seed, epoch, sample), that of layers such as dropout by (seed, epoch,
    process), so that training resumed after an epoch goes on as if it had not stopped.

    Args:
        device: where to train.
        max_epochs: number of epochs.
        train_data_loader: batches with "image" (B, channels, *S), "label" (B, 1, *S) and "sample" (B names).
        network: the segmenter, or DDP around it.
        optimizer: of its parameters.
        method: name of the method whose strategy and time sampler train it; "supervised" needs no schedule.
        loss_function: gives a loss a sample (B,); by default cross-entropy 20 : Dice 1 for networks that give logits,
            the squared error for others.
        time_sampler: "importance" or "uniform" in place of the method's.
        time_sampler_options: further options of it.
        seed: of the run.
        ema: an averaged copy to update after every step, see `make_ema`.
        first_pass: which network makes the first pass of recycling: "network" or "ema".
        lr_scheduler: stepped after every optimiser step.
        max_grad_norm: clip the norm of all gradients together; None for no clipping.
        accumulation_steps: batches a step of the optimiser.
        **engine_options: of `monai.engines.SupervisedTrainer`, such as `train_handlers` and `epoch_length`.

    Raises:
        SpecError: settings that do not exist or do not fit each other.
    """

    setting_names = (*KeyedTraining.setting_names, "first_pass", "accumulation_steps")

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        network: nn.Module,
        optimizer: Optimizer,
        *,
        method: str,
        loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        time_sampler: str | None = None,
        time_sampler_options: dict[str, Any] | None = None,
        seed: int = 0,
        ema: AveragedModel | None = None,
        first_pass: str = "network",
        lr_scheduler: LRScheduler | None = None,
        max_grad_norm: float | None = 1.0,
        accumulation_steps: int = 1,
        **engine_options: Any,
    ) -> None:
        self.segmenter: DiffusionSegmenter = unwrapped(network)
        chosen = get_method(method)
        self.strategy = get_strategy(chosen.strategy)
        self.first_pass = first_pass
        self.strategy_options = _first_pass_options(chosen, first_pass, ema)
        self.time_sampler = _make_time_sampler(chosen, self.segmenter, time_sampler, time_sampler_options or {})
        self.seed = seed
        self.ema = ema
        self.lr_scheduler = lr_scheduler
        self.max_grad_norm = max_grad_norm
        if accumulation_steps < 1:
            msg = f"accumulation_steps is {accumulation_steps}; give at least 1 batch a step of the optimiser"
            raise SpecError(msg)
        device = torch.device(device)
        half = amp_dtype(device, self.segmenter.amp)
        # bf16 has the range of float32 and needs no scaling of the loss.
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
        default_loss = SegmentationLoss() if self.segmenter.prediction.classifies else RegressionLoss()
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function or default_loss,
            prepare_batch=engine_options.pop("prepare_batch", default_prepare_batch),
            **engine_options,
        )
        # Not handed over: MONAI knows it from 1.6 on, and the step here is our own.
        self.accumulation_steps = accumulation_steps
        self.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **settings_of("loss", self.loss_function)}

    def stateful_objects(self) -> dict[str, Any]:
        """All that a checkpoint must hold so that training goes on exactly, each with a state dict."""
        objects = {
            "network": self.segmenter,
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "ema": self.ema,
            "time_sampler": self.time_sampler,
            "grad_scaler": self.grad_scaler if self.grad_scaler.is_enabled() else None,
        }
        return {name: value for name, value in objects.items() if value is not None}

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        image, label, noise = self.take_batch(batchdata)
        output: dict[str, Any] = {Keys.IMAGE: image, Keys.LABEL: label}
        self.state.output = output

        opens, closes, parts = self._accumulation()
        self.network.train()
        if opens:
            self.optimizer.zero_grad(set_to_none=True)
        x_0 = self.segmenter.codec.encode(label)  # (B, C, *S)
        t, weights = self.time_sampler.sample(noise.uniform())  # (B,) each
        made = self.strategy(self.network, image, x_0, t, noise, **self.strategy_options)
        output[Keys.PRED] = made.output
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        losses = self._losses(made, label, x_0)  # (B,)
        loss = (weights * losses).mean()
        output[Keys.LOSS] = self.shared_loss("loss", loss)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.grad_scaler.scale(loss / parts).backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.time_sampler.update(*_gather(t, losses.detach()))
        if closes:
            self._step()
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output  # MONAI's handlers expect it taken apart, which the last event did

    def _losses(self, made: StrategyOutput, label: torch.Tensor, x_0: torch.Tensor) -> torch.Tensor:
        """The loss of each sample (B,): of logits against the label, of others against what they should predict."""
        prediction, schedule = self.segmenter.prediction, self.segmenter.schedule
        if prediction.classifies:
            return self.loss_function(made.output, label)
        target = prediction.target(x_0, made.noise, made.t, schedule)
        return self.loss_function(prediction.regressed(made.output), target)

    def _accumulation(self) -> tuple[bool, bool, int]:
        """Whether this batch opens and closes an optimiser step, and by how many its loss is divided."""
        size = self.accumulation_steps
        length = self.state.epoch_length or size
        place = (self.state.iteration - 1) % length
        # The last step of an epoch may have fewer batches; it is divided by what it has.
        parts = min(size, length - place // size * size)
        return place % size == 0, place % size == parts - 1, parts

    def _step(self) -> None:
        self.step_optimizer("network", self.network, self.optimizer, self.grad_scaler, self.max_grad_norm)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.segmenter)


def _make_time_sampler(
    method: Method, segmenter: DiffusionSegmenter, name: str | None, options: dict[str, Any]
) -> TimeSampler:
    if (segmenter.schedule is None) != (method.schedule is None):
        kinds = {True: "a supervised network", False: "a network with a noise schedule"}
        msg = (
            f"method {method.name!r} needs {kinds[method.schedule is None]}, got {kinds[segmenter.schedule is None]}; "
            "build the network and the trainer with the same method"
        )
        raise SpecError(msg)
    if segmenter.schedule is None:
        return build_time_sampler("uniform", 1)
    times = num_times(method.strategy, segmenter.schedule.num_train_timesteps)
    return build_time_sampler(name or method.time_sampler, times, **options)


def _first_pass_options(method: Method, first_pass: str, ema: AveragedModel | None) -> dict[str, Any]:
    if first_pass not in ("network", "ema"):
        msg = f"first_pass {first_pass!r} does not exist; use network or ema"
        raise SpecError(msg)
    if first_pass == "network":
        return {}
    if method.strategy not in TAKES_FIRST_PASS or ema is None:
        msg = (
            f"first_pass 'ema' was asked for with method {method.name!r} and {'no' if ema is None else 'an'} EMA; "
            f"it needs one of {', '.join(sorted(TAKES_FIRST_PASS))} and an EMA"
        )
        raise SpecError(msg)
    return {"first_pass": ema.module}


def _gather(*tensors: torch.Tensor) -> Sequence[torch.Tensor]:
    """The tensors (B,) of all processes as (B * processes,), so that each learns the same importance history.

    Samples are dealt out to the processes in turn; they come back in the order in which one process would see them,
    since a running mean depends on it.
    """
    if not is_one_of_several():
        return tensors
    gathered = []
    for tensor in tensors:
        parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, tensor.contiguous())
        gathered.append(torch.stack(parts, dim=1).flatten())
    return gathered
