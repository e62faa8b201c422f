"""The schedules and samplers behind MONAI's `Scheduler` interface."""

from __future__ import annotations

from typing import Any, Literal

import torch
from monai.networks.schedulers import Scheduler
from torch import Tensor

from medsegdiff.errors import SpecError
from medsegdiff.networks.schedulers.schedule import END
from medsegdiff.networks.schedulers.steps import (
    VarianceKind,
    ddim_step,
    ddpm_step,
    validate_eta,
    validate_variance,
)
from medsegdiff.networks.schedulers.tables import build_schedule

SAMPLER_NAMES = ("ddpm", "ddim")
PREDICTION_TYPES = ("sample", "epsilon", "v_prediction")


class SegmentationScheduler(Scheduler):
    """A MONAI scheduler whose steps are right for any number of visited timesteps.

    For use where a MONAI `Scheduler` is asked for, such as `monai.inferers.DiffusionInferer`. The previous timestep
    is read from `timesteps`; the stock schedulers infer it from t alone (MONAI 1.6.1), which is right only when every
    timestep is visited. DPM-Solver++ keeps a history, which this interface has no place for: use `samplers`.

    Args:
        num_train_timesteps: T, the number of timesteps of training; None for the schedule's own default.
        schedule: name of a schedule, see `medsegdiff.networks.schedulers.tables.SCHEDULES`.
        sampler: "ddpm" or "ddim".
        variance: variance of DDPM, "posterior", "beta" or "none".
        eta: share of randomness of DDIM, in [0, 1].
        prediction_type: what the network's output means: "sample" (x_0), "epsilon" or "v_prediction"
            (v = sqrt(abar) epsilon - sqrt(1 - abar) x_0, Salimans & Ho 2022).
        clip_sample: clip the predicted x_0 to [-1, 1] before the step.
        schedule_args: further settings of the schedule.

    Raises:
        SpecError: if a name, eta or a setting of the schedule is not one of the above.
    """

    def __init__(
        self,
        num_train_timesteps: int | None = None,
        schedule: str = "linear",
        *,
        sampler: Literal["ddpm", "ddim"] = "ddpm",
        variance: VarianceKind = "posterior",
        eta: float = 0.0,
        prediction_type: Literal["sample", "epsilon", "v_prediction"] = "sample",
        clip_sample: bool = False,
        **schedule_args: Any,
    ) -> None:
        _validate_choice("sampler", sampler, SAMPLER_NAMES)
        _validate_choice("prediction_type", prediction_type, PREDICTION_TYPES)
        validate_variance(variance)
        validate_eta(eta)
        if num_train_timesteps is not None:
            schedule_args["num_train_timesteps"] = num_train_timesteps
        noise_schedule = build_schedule(schedule, **schedule_args)
        super().__init__(noise_schedule.num_train_timesteps)
        self.noise_schedule = noise_schedule
        # MONAI's tables, for whoever reads them from a scheduler; no method of this class does.
        self.betas = noise_schedule.betas.float()
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = noise_schedule.alphas_cumprod.float()
        self.sampler = sampler
        self.variance = variance
        self.eta = eta
        self.prediction_type = prediction_type
        self.clip_sample = clip_sample
        self.set_timesteps(self.num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose how many timesteps are visited, evenly spaced from T - 1 to 0 with both included.

        Args:
            num_inference_steps: from 1 to T.
            device: where `timesteps` shall lie.

        Raises:
            SpecError: if the number is not in 1..T.
        """
        visited = self.noise_schedule.timesteps(num_inference_steps)
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(visited, dtype=torch.long, device=device)

    def step(
        self, model_output: Tensor, timestep: int | Tensor, sample: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Go from the sample at `timestep` to the next visited timestep.

        Args:
            model_output: what the network said, (B, C, *spatial), see `prediction_type`.
            timestep: one of `timesteps`.
            sample: x_t, same shape.
            generator: source of the step's noise, on the sample's device; None for the global one.

        Returns:
            pred_prev_sample, pred_original_sample: x at the next visited timestep (x0_hat itself after the last)
            and x0_hat. Computed in float32 at least and handed back in the sample's dtype.

        Raises:
            SpecError: if the timestep is not visited.
        """
        t = int(timestep)
        t_prev = self._previous(t)
        x_t = sample if sample.dtype == torch.float64 else sample.float()
        x_0 = self._predict_x_0(model_output.to(x_t.dtype), t, x_t)
        noise = None
        random = self.variance != "none" if self.sampler == "ddpm" else self.eta > 0
        if t_prev != END and random:
            noise = torch.randn(x_t.shape, generator=generator, device=x_t.device, dtype=x_t.dtype)
        if self.sampler == "ddpm":
            x_prev = ddpm_step(self.noise_schedule, x_t, x_0, noise, t, t_prev, variance=self.variance)
        else:
            x_prev = ddim_step(self.noise_schedule, x_t, x_0, noise, t, t_prev, eta=self.eta)
        return x_prev.to(sample.dtype), x_0.to(sample.dtype)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Draw from q(x_t | x_0), computed in float32 at least and handed back in the samples' dtype.

        Args:
            original_samples: x_0, (B, C, *spatial).
            noise: standard normal noise, same shape.
            timesteps: integers (B,).
        """
        return self.noise_schedule.add_noise(original_samples, noise, timesteps).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The target of v-prediction, v = sqrt(abar_t) noise - sqrt(1 - abar_t) sample.

        Args:
            sample: x_0, (B, C, *spatial).
            noise: standard normal noise, same shape.
            timesteps: integers (B,).
        """
        signal, noise_scale = self.noise_schedule.scales(timesteps, sample)
        return (signal * noise.to(signal.dtype) - noise_scale * sample.to(signal.dtype)).to(sample.dtype)

    def _predict_x_0(self, model_output: Tensor, t: int, x_t: Tensor) -> Tensor:
        signal, noise_scale = self.noise_schedule.scales(t, x_t)
        if self.prediction_type == "epsilon":
            x_0 = (x_t - noise_scale * model_output) / signal
        elif self.prediction_type == "v_prediction":
            x_0 = signal * x_t - noise_scale * model_output
        else:
            x_0 = model_output
        return x_0.clamp(-1, 1) if self.clip_sample else x_0

    def _previous(self, t: int) -> int:
        """The timestep that follows t in `timesteps`, END after the last."""
        visited = self.timesteps.tolist()
        if t not in visited:
            some = visited if len(visited) <= 8 else [*visited[:3], "…", visited[-1]]
            msg = f"timestep {t} is not visited: take it from scheduler.timesteps, here {', '.join(map(str, some))}"
            raise SpecError(msg)
        return [*visited[1:], END][visited.index(t)]


def _validate_choice(what: str, got: str, allowed: tuple[str, ...]) -> None:
    if got not in allowed:
        msg = f"{what} is {got!r}: choose one of {', '.join(allowed)}"
        raise SpecError(msg)
