"""The trainer of cDAL, which alternates a discriminator and a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from ignite.engine import Events
from monai.engines import Trainer
from monai.engines.utils import IterationEvents, default_prepare_batch
from monai.utils import AdversarialIterationEvents, AdversarialKeys
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from medsegdiff.data.noise import TrainingNoise
from medsegdiff.engines.attention import NORMALISATIONS, attention_map
from medsegdiff.engines.importance import UniformTimes
from medsegdiff.engines.keyed_training import KeyedTraining
from medsegdiff.engines.noisy_pairs import FAKE_PAIRS, REAL_PAIRS, NoisyPair, check_kind, fake_x_prev, real_pair
from medsegdiff.engines.run_settings import optimizer_settings, settings_of
from medsegdiff.errors import SpecError
from medsegdiff.flags import as_bool
from medsegdiff.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from medsegdiff.losses.segmentation import RegressionLoss
from medsegdiff.networks.blocks.autocast import amp_dtype, autocast
from medsegdiff.networks.nets.cdal_discriminator import CDALDiscriminator
from medsegdiff.networks.schedulers.schedule import NoiseSchedule
from medsegdiff.networks.segmenter import DiffusionSegmenter
from medsegdiff.networks.wrapping import unwrapped

R1_PENALTY = "r1_penalty"
ATTENTION = "attention"


class AdversarialDiffusionTrainer(KeyedTraining, Trainer):
    """A MONAI trainer whose iteration is a step of a discriminator and one of a diffusion model (Hejrati et al. 2024).

    The discriminator learns to tell pairs (x_prev, x_t) of the truth from those whose x_prev follows from the
    prediction at the same x_t. Its features make the attention map A_D; the generator is shown the noised x_0 * A_D
    and learns to predict x_0 itself, by the squared error (section 2.2). At inference there is no attention and no
    discriminator. Keys of the output and events are those of `monai.engines.AdversarialTrainer`, beside "r1_penalty"
    (what it added to the discriminator's loss, 0 in iterations without) and "attention" (mean of abs(A_D), 1 without
    attention).

    All randomness of a step is keyed by (seed, epoch, sample), that of layers such as dropout by (seed, epoch,
    process), so that training resumed after an epoch goes on as if it had not stopped.

    Args:
        device: where to train.
        max_epochs: number of epochs.
        train_data_loader: batches with "image" (B, channels, *S), "label" (B, 1, *S) and "sample" (B names).
        network: the segmenter with the generator, or DDP around it.
        optimizer: of its parameters; the release has Adam with betas (0.5, 0.9), rate 1.6e-4 to 2e-4.
        discriminator: for masks of as many channels as the segmenter's, or DDP around it.
        discriminator_optimizer: of its parameters; the release has Adam with betas (0.5, 0.9), rate 1e-5 to 1.25e-4.
        attention: False for the paper's ablation: the generator is shown the noised x_0.
        attention_layer: which features make A_D, see `layer_factor`: "1/8" is the paper's 32 of 256.
        attention_normalise: "none" (release), "min_max" or "unit_mean", see `attention_map`.
        real_pair: "markov" (section 2.2, release) or "algorithm_1", see `real_pair`. With the latter the generator's
            step, too, uses the noise and the latent of the discriminator's, as printed.
        fake_pair: "posterior" (section 2.2, release) or "algorithm_1", see `fake_x_prev`.
        adversarial_weight: of a term that rewards the generator for misleading the discriminator; 0 in the paper.
        reconstruction_loss: gives a loss a sample (B,) from the predicted and the true x_0 (B, C, *S); by default the
            mean squared error.
        r1_gamma: weight of the discriminator's gradient penalty; 0 for none.
        r1_interval: iterations between two penalties (release: 10, 1 for chest X-ray); it does not grow with it.
        seed: of the run.
        ema: an averaged copy of the segmenter to update after every step, see `make_ema`.
        lr_scheduler: of `optimizer`, stepped after every step of it.
        discriminator_lr_scheduler: of `discriminator_optimizer`, likewise.
        max_grad_norm: clip the norm of all gradients of each network together; None for no clipping (release).
        train_handlers: as in MONAI.
        **engine_options: further ones of `monai.engines.Workflow`, such as `epoch_length` and `key_metric`.

    Raises:
        SpecError: settings that do not exist or do not fit each other.
    """

    scalars = (
        Keys.LOSS,
        AdversarialKeys.RECONSTRUCTION_LOSS,
        AdversarialKeys.GENERATOR_LOSS,
        AdversarialKeys.DISCRIMINATOR_LOSS,
        R1_PENALTY,
        ATTENTION,
    )
    """Numbers of the output whose means over an epoch are worth a look."""

    setting_names = (
        *KeyedTraining.setting_names,
        "attention",
        "attention_layer",
        "attention_normalise",
        "real_pair",
        "fake_pair",
        "adversarial_weight",
        "r1_gamma",
        "r1_interval",
    )

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        network: nn.Module,
        optimizer: Optimizer,
        discriminator: nn.Module,
        discriminator_optimizer: Optimizer,
        *,
        attention: bool = True,
        attention_layer: str | int = "1/8",
        attention_normalise: str = "none",
        real_pair: str = "markov",
        fake_pair: str = "posterior",
        adversarial_weight: float = 0.0,
        reconstruction_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        r1_gamma: float = 1.0,
        r1_interval: int = 10,
        seed: int = 0,
        ema: AveragedModel | None = None,
        lr_scheduler: LRScheduler | None = None,
        discriminator_lr_scheduler: LRScheduler | None = None,
        max_grad_norm: float | None = None,
        train_handlers: Any = None,
        **engine_options: Any,
    ) -> None:
        self.segmenter: DiffusionSegmenter = unwrapped(network)
        self.schedule = _schedule_of(self.segmenter)
        check_kind("real_pair", real_pair, REAL_PAIRS)
        check_kind("fake_pair", fake_pair, FAKE_PAIRS)
        check_kind("attention_normalise", attention_normalise, NORMALISATIONS)
        if r1_interval < 1 or r1_gamma < 0 or adversarial_weight < 0:
            msg = (
                f"got r1_interval={r1_interval}, r1_gamma={r1_gamma}, adversarial_weight={adversarial_weight}; "
                "allowed are r1_interval >= 1 and weights >= 0"
            )
            raise SpecError(msg)
        self.network, self.optimizer, self.lr_scheduler = network, optimizer, lr_scheduler
        self.discriminator, self.discriminator_optimizer = discriminator, discriminator_optimizer
        self.discriminator_lr_scheduler = discriminator_lr_scheduler
        _check_masks(self._inner_discriminator, self.segmenter)
        self.attention = as_bool(attention, "attention")
        self.attention_layer, self.attention_normalise = attention_layer, attention_normalise
        self.real_pair, self.fake_pair = real_pair, fake_pair
        self.adversarial_weight = adversarial_weight
        self.reconstruction_loss = reconstruction_loss or RegressionLoss()
        self.r1_gamma, self.r1_interval = r1_gamma, r1_interval
        self.seed = seed
        self.ema = ema
        self.max_grad_norm = max_grad_norm
        self.time_sampler = UniformTimes(self.schedule.num_train_timesteps)
        device = torch.device(device)
        # bf16 has the range of float32 and needs no scaling of the loss.
        scaled = amp_dtype(device, self.segmenter.amp) is torch.float16
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.discriminator_grad_scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            prepare_batch=engine_options.pop("prepare_batch", default_prepare_batch),
            handlers=train_handlers,
            event_names=[*engine_options.pop("event_names", []), AdversarialIterationEvents],
            **engine_options,
        )
        self.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)

    def settings(self) -> dict[str, Any]:
        judge = optimizer_settings(
            self.discriminator_optimizer, name="discriminator_optimizer", rate="discriminator_learning_rate"
        )
        return {**super().settings(), **settings_of("loss", self.reconstruction_loss), **judge}

    def stateful_objects(self) -> dict[str, Any]:
        """All that a checkpoint must hold so that training goes on exactly, each with a state dict."""
        scaled = self.grad_scaler.is_enabled()
        objects = {
            "network": self.segmenter,
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "ema": self.ema,
            "discriminator": self._inner_discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
            "discriminator_lr_scheduler": self.discriminator_lr_scheduler,
            "grad_scaler": self.grad_scaler if scaled else None,
            "discriminator_grad_scaler": self.discriminator_grad_scaler if scaled else None,
        }
        return {name: value for name, value in objects.items() if value is not None}

    @property
    def _inner_discriminator(self) -> CDALDiscriminator:
        return cast(CDALDiscriminator, unwrapped(self.discriminator))

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        image, label, noise = self.take_batch(batchdata)
        self.state.output = {Keys.IMAGE: image, Keys.LABEL: label}

        self.network.train()
        self.discriminator.train()
        x_0 = self.segmenter.codec.encode(label)  # (B, C, *S)
        t, _ = self.time_sampler.sample(noise.uniform())  # (B,)
        pair = real_pair(self.schedule, x_0, t, noise, self.real_pair)
        z = self._latent(noise)  # (B, features)
        self._train_discriminator(image, pair, z, noise)
        self._train_generator(image, x_0, pair, z, noise)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output  # MONAI's handlers expect it taken apart, which the last event did

    def _train_discriminator(
        self, image: torch.Tensor, pair: NoisyPair, z: torch.Tensor | None, noise: TrainingNoise
    ) -> None:
        """One step on the loss of telling real from fake pairs, the generator as it is."""
        output = self.state.output
        with torch.no_grad():
            x_0 = self.segmenter.denoise(pair.x_t, pair.t, self.segmenter.encode(image), z=z)  # (B, C, *S)
            fake = fake_x_prev(self.schedule, x_0, pair, noise, self.fake_pair)  # (B, C, *S)
        output |= {AdversarialKeys.REALS: pair.x_prev, AdversarialKeys.FAKES: fake}
        penalised = self.r1_gamma > 0 and (self.state.iteration - 1) % self.r1_interval == 0
        real = pair.x_prev.detach().requires_grad_(penalised)

        self.discriminator_optimizer.zero_grad(set_to_none=True)
        # A gradient of a gradient loses too much in half precision.
        with self._autocast(not penalised):
            real_logits = self.discriminator(real, pair.x_t, pair.t)  # (B,)
        output[AdversarialKeys.REAL_LOGITS] = real_logits
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_REALS_FORWARD_COMPLETED)
        with self._autocast():
            fake_logits = self.discriminator(fake, pair.x_t, pair.t)  # (B,)
        output[AdversarialKeys.FAKE_LOGITS] = fake_logits
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_FAKES_FORWARD_COMPLETED)

        loss = discriminator_loss(real_logits, fake_logits).mean()
        penalty = r1_penalty(real_logits, real, gamma=self.r1_gamma).mean() if penalised else torch.zeros_like(loss)
        output[AdversarialKeys.DISCRIMINATOR_LOSS] = self.shared_loss("loss of the discriminator", loss)
        output[R1_PENALTY] = self.shared_loss("R1 penalty", penalty)
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_LOSS_COMPLETED)
        self.discriminator_grad_scaler.scale(loss + penalty).backward()
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_BACKWARD_COMPLETED)
        self.step_optimizer(
            "discriminator",
            self.discriminator,
            self.discriminator_optimizer,
            self.discriminator_grad_scaler,
            self.max_grad_norm,
        )
        if self.discriminator_lr_scheduler is not None:
            self.discriminator_lr_scheduler.step()
        self.fire_event(AdversarialIterationEvents.DISCRIMINATOR_MODEL_COMPLETED)

    def _train_generator(
        self, image: torch.Tensor, x_0: torch.Tensor, pair: NoisyPair, z: torch.Tensor | None, noise: TrainingNoise
    ) -> None:
        """One step on the loss of predicting x_0 from the attended mask, the discriminator as it is."""
        output, t = self.state.output, pair.t
        attention = torch.ones_like(x_0[:, :1])  # (B, 1, *S)
        if self.attention:
            with self._autocast():
                attention = attention_map(
                    self._inner_discriminator, pair, layer=self.attention_layer, normalise=self.attention_normalise
                )
        output[ATTENTION] = attention.abs().mean()
        eps = pair.noise
        if self.real_pair != "algorithm_1":
            eps, z = noise.normal(x_0.shape[1:]), self._latent(noise)
        x_t = self.schedule.add_noise(attention * x_0, eps, t)  # (B, C, *S)

        self.optimizer.zero_grad(set_to_none=True)
        made = self.network(image, x_t, t, None, z)  # (B, C, *S)
        prediction = self.segmenter.prediction.to_x_0(made, x_t, t, self.schedule)  # (B, C, *S)
        output[Keys.PRED] = made
        self.fire_event(AdversarialIterationEvents.GENERATOR_FORWARD_COMPLETED)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        reconstruction = self.reconstruction_loss(prediction, x_0).mean()
        output[AdversarialKeys.RECONSTRUCTION_LOSS] = self.shared_loss(
            "reconstruction loss of the generator", reconstruction
        )
        self.fire_event(AdversarialIterationEvents.RECONSTRUCTION_LOSS_COMPLETED)
        adversarial = torch.zeros_like(reconstruction)
        if self.adversarial_weight:
            adversarial = self._misleading(prediction, pair, noise)
        output[AdversarialKeys.GENERATOR_LOSS] = self.shared_loss("adversarial loss of the generator", adversarial)
        self.fire_event(AdversarialIterationEvents.GENERATOR_LOSS_COMPLETED)
        loss = reconstruction + self.adversarial_weight * adversarial
        shared = output[AdversarialKeys.RECONSTRUCTION_LOSS], output[AdversarialKeys.GENERATOR_LOSS]
        output[Keys.LOSS] = shared[0] + self.adversarial_weight * shared[1]
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.grad_scaler.scale(loss).backward()
        self.fire_event(AdversarialIterationEvents.GENERATOR_BACKWARD_COMPLETED)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.step_optimizer("generator", self.network, self.optimizer, self.grad_scaler, self.max_grad_norm)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.segmenter)
        self.fire_event(AdversarialIterationEvents.GENERATOR_MODEL_COMPLETED)

    def _misleading(self, prediction: torch.Tensor, pair: NoisyPair, noise: TrainingNoise) -> torch.Tensor:
        """How well the discriminator tells the prediction's x_prev from a real one.

        It is judged beside the x_t that was not attended: the discriminator knows no other.
        """
        discriminator = self._inner_discriminator
        fake = fake_x_prev(self.schedule, prediction, pair, noise, self.fake_pair)  # (B, C, *S)
        discriminator.requires_grad_(False)
        with self._autocast():
            logits = discriminator(fake, pair.x_t, pair.t)  # (B,)
        discriminator.requires_grad_(True)
        return generator_loss(logits).mean()

    def _latent(self, noise: TrainingNoise) -> torch.Tensor | None:
        features = self.segmenter.denoiser.latent_dim
        return noise.normal((features,)) if features else None  # (B, features)

    def _autocast(self, enabled: bool = True) -> AbstractContextManager[None]:
        return autocast(self.state.device, self.segmenter.amp if enabled else "off")


def _schedule_of(segmenter: DiffusionSegmenter) -> NoiseSchedule:
    if segmenter.schedule is None:
        msg = "adversarial training needs a network with a noise schedule, got a supervised one; use method 'cdal'"
        raise SpecError(msg)
    return segmenter.schedule


def _check_masks(discriminator: CDALDiscriminator, segmenter: DiffusionSegmenter) -> None:
    judged, made = getattr(discriminator, "mask_channels", None), segmenter.codec.channels
    if judged is not None and judged != made:
        msg = f"the discriminator judges masks of {judged} channels, the network makes {made}; build both of one spec"
        raise SpecError(msg)
