"""The trainer of a method, from one set of arguments for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medsegdiff.engines.adversarial_trainer import AdversarialDiffusionTrainer
from medsegdiff.engines.attention import layer_factor
from medsegdiff.engines.distributed import distribute
from medsegdiff.engines.trainer import DiffusionTrainer
from medsegdiff.errors import SpecError, check_options
from medsegdiff.flags import as_bool
from medsegdiff.methods import RunSpec, get_method
from medsegdiff.methods.cdal import ADVERSARIAL, build_discriminator, paper_attention_layer

# Names of `DiffusionTrainer` that an adversarial run cannot follow, with the values that ask for nothing.
_NOT_ADVERSARIAL: dict[str, Any] = {
    "time_sampler": None,
    "time_sampler_options": None,
    "first_pass": "network",
    "accumulation_steps": 1,
}

_OTHERWISE_GIVEN = ("seed", "ema", "lr_scheduler", "discriminator_lr_scheduler", "train_handlers")
_OF_THE_DISCRIMINATOR = ("discriminator_learning_rate", "discriminator")


def build_trainer(
    spec: RunSpec,
    device: str | torch.device,
    max_epochs: int,
    train_data_loader: Iterable[Any],
    network: nn.Module,
    optimizer: Optimizer,
    *,
    seed: int = 0,
    adversarial: Mapping[str, Any] | None = None,
    schedule_rate: Callable[[Optimizer], LRScheduler] | None = None,
    loss_function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    **options: Any,
) -> DiffusionTrainer | AdversarialDiffusionTrainer:
    """The trainer that a run's method needs: `AdversarialDiffusionTrainer` for cDAL, else `DiffusionTrainer`.

    Args:
        spec: of the run.
        device: where to train.
        max_epochs: number of epochs.
        train_data_loader: batches of the keyed dataset.
        network: the segmenter, or DDP around it.
        optimizer: of its parameters.
        seed: of the run.
        adversarial: for cDAL, further options of its trainer, such as `attention`, and the two of its discriminator:
            `discriminator_learning_rate`, and `discriminator`, the arguments of its network. Other methods ignore
            them, so that one configuration serves all.
        schedule_rate: makes the schedule of an optimiser's learning rate.
        loss_function: of `DiffusionTrainer`; cDAL takes the squared error of x_0.
        options: further ones of the trainer.

    Raises:
        SpecError: settings that do not exist or do not fit the method.
    """
    if get_method(spec.method).strategy != ADVERSARIAL:
        lr_scheduler = None if schedule_rate is None else schedule_rate(optimizer)
        return DiffusionTrainer(
            device,
            max_epochs,
            train_data_loader,
            network,
            optimizer,
            method=spec.method,
            seed=seed,
            loss_function=loss_function,
            lr_scheduler=lr_scheduler,
            **options,
        )
    for name, nothing in _NOT_ADVERSARIAL.items():
        if options.pop(name, nothing) != nothing:
            msg = f"method {spec.method!r} has no {name}; leave it out, or use a method without discriminator"
            raise SpecError(msg)
    options.pop("inferer", None)  # bundles name one, as MONAI wants it; training calls the network itself
    given = {name: value for name, value in (adversarial or {}).items() if value is not None}
    check_options(
        AdversarialDiffusionTrainer.__init__,
        given,
        "adversarial training",
        leave_out=_OTHERWISE_GIVEN,
        beside=_OF_THE_DISCRIMINATOR,
    )
    settings: dict[str, Any] = {"attention_layer": paper_attention_layer(spec), **given}
    rate = settings.pop("discriminator_learning_rate", 1e-4)
    torch.manual_seed(seed)
    discriminator = build_discriminator(spec, **settings.pop("discriminator", {}))
    attends = as_bool(settings.get("attention", True), "attention")
    if attends and isinstance(settings["attention_layer"], str):  # a number is one of the size that the first batch has
        layer_factor(settings["attention_layer"], discriminator.factors, spec.roi_size)
    judge: nn.Module = discriminator.to(device)
    if hasattr(network, "module"):
        judge = distribute(judge, torch.device(device))
    judge_optimizer = Adam(judge.parameters(), lr=rate, betas=(0.5, 0.9))
    return AdversarialDiffusionTrainer(
        device,
        max_epochs,
        train_data_loader,
        network,
        optimizer,
        judge,
        judge_optimizer,
        seed=seed,
        lr_scheduler=None if schedule_rate is None else schedule_rate(optimizer),
        discriminator_lr_scheduler=None if schedule_rate is None else schedule_rate(judge_optimizer),
        **{**options, **settings},
    )
