"""The one object of the toolkit: a segmentation network that samples."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from medsegdiff.data.metadata import like_inputs
from medsegdiff.data.noise import SamplingNoise
from medsegdiff.errors import DataError, SpecError, check_at_least, check_options
from medsegdiff.flags import as_bool
from medsegdiff.networks.blocks.autocast import autocast
from medsegdiff.networks.codec import MaskCodec
from medsegdiff.networks.moments import RunningMoments
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.prediction import Prediction
from medsegdiff.networks.schedulers.samplers import SamplerStep, get_sampler
from medsegdiff.networks.schedulers.schedule import NoiseSchedule
from medsegdiff.networks.segmentation import Segmentation, SegmenterStep, StepCallback, StepCount, check_cases

LatentDenoise = Callable[[torch.Tensor, int, "torch.Tensor | None", "torch.Tensor | None"], torch.Tensor]
"""(x_t, t, x0_prev, z) -> x0_hat, all (B * n, C, *S) but z (B * n, features): a network under the image it is shown."""


class DiffusionSegmenter(nn.Module):
    """A denoiser with its schedule, mask codec and kind of prediction, which segments by sampling.

    Seen from outside it is an ordinary network of MONAI, `forward(image)` giving class probabilities; training and
    samplers use `forward(image, x_t, timesteps)`, `encode` and `denoise`. With `schedule=None` it is a supervised
    network: its denoiser sees an empty x_t and one call is the whole of "sampling".

    Args:
        denoiser: the network of a paper, with `encode(image)` and `forward(x_t, t, condition, x0_prev, z)`.
        codec: between label maps and x_0.
        prediction: what the denoiser's output means.
        schedule: the noise schedule; None for a supervised network.
        sampler: "ddpm", "ddim" or "dpm_solver++".
        sampler_options: further options of the sampler, such as `variance` or `eta`.
        steps: number of visited time steps.
        draws: number of segmentations whose probabilities are averaged.
        draws_per_batch: how many draws go through the network at once; memory grows with it, not with `draws`.
        seed: of the sampling noise, together with the case's name.
        amp: "auto", "bf16", "fp16" or "off", see `medsegdiff.networks.blocks.autocast.amp_dtype`.

    Raises:
        SpecError: a setting that does not exist or does not fit the others.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        codec: MaskCodec,
        prediction: Prediction,
        schedule: NoiseSchedule | None = None,
        sampler: str = "ddpm",
        sampler_options: dict[str, float | str] | None = None,
        steps: int = 5,
        draws: int = 1,
        draws_per_batch: int = 4,
        seed: int = 0,
        amp: str = "off",
    ) -> None:
        super().__init__()
        if schedule is None and prediction.needs_schedule:
            msg = f"a network without a schedule cannot predict through {type(prediction).__name__}; use logits or tanh"
            raise SpecError(msg)
        self.denoiser = denoiser
        self.codec = codec
        self.prediction = prediction
        self.schedule = schedule
        self.amp = amp
        self.sampler = sampler
        self.sampler_options: dict[str, float | str] = {}
        self.steps, self.draws, self.draws_per_batch, self.seed = steps, draws, draws_per_batch, seed
        self.set_sampling(
            sampler=sampler,
            sampler_options=sampler_options or {},
            steps=steps,
            draws=draws,
            draws_per_batch=draws_per_batch,
        )

    @property
    def supervised(self) -> bool:
        """Whether the network segments in one call, without noise."""
        return self.schedule is None

    @property
    def mask_channels(self) -> int:
        """Channels of x_t: those of x_0, or none for a supervised network."""
        return 0 if self.supervised else self.codec.channels

    def set_sampling(
        self,
        *,
        sampler: str | None = None,
        sampler_options: dict[str, float | str] | None = None,
        clip_x_0: bool | None = None,
        steps: int | None = None,
        draws: int | None = None,
        draws_per_batch: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Change how later calls sample; what is None stays. A supervised network checks and keeps, but ignores them.

        `clip_x_0` is for networks that predict the noise or v: whether the x_0 that follows is clipped to [-1, 1],
        without which few steps leave noise behind.

        Raises:
            SpecError: an unknown sampler or option of it, a number of steps that the schedule does not have, fewer than
                one draw, nothing that could be clipped; nothing is changed then.
        """
        if sampler is not None and sampler_options is None and sampler != self.sampler:
            sampler_options = {}  # options of one sampler mean nothing to another
        if sampler is not None or sampler_options is not None:
            _check_sampler(sampler or self.sampler, sampler_options or {})
        if steps is not None and self.schedule is not None:
            self.schedule.timesteps(steps)
        check_at_least(1, draws=draws, draws_per_batch=draws_per_batch)
        if clip_x_0 is not None and not self.supervised:
            self.prediction = self.prediction.clipped(as_bool(clip_x_0, "clip_x_0"))
        self.sampler = self.sampler if sampler is None else sampler
        self.sampler_options = self.sampler_options if sampler_options is None else dict(sampler_options)
        self.steps = self.steps if steps is None else steps
        self.draws = self.draws if draws is None else draws
        self.draws_per_batch = self.draws_per_batch if draws_per_batch is None else draws_per_batch
        self.seed = self.seed if seed is None else seed

    def forward(
        self,
        image: torch.Tensor,
        x_t: torch.Tensor | None = None,
        timesteps: torch.Tensor | None = None,
        x0_prev: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Segment an image, or denoise where x_t is given.

        Args:
            image: (B, image channels, *S).
            x_t: noisy masks (B, C, *S), C = 0 for a supervised network.
            timesteps: 0-based time steps (B,), needed with x_t.
            x0_prev: for self-conditioning, the previous prediction of x_0 (B, C, *S).
            z: for networks with a latent.

        Returns:
            Class probabilities (B, K, *S), without gradient and with the metadata of `image`; with x_t, the denoiser's
            raw output, with gradient.
        """
        if (x_t is None) != (timesteps is None):
            got = "timesteps without x_t" if x_t is None else "x_t without timesteps"
            msg = f"forward got {got}; give both to denoise, neither to segment"
            raise SpecError(msg)
        if x_t is None:
            return like_inputs(self.sample(image).probabilities, image)
        with autocast(image.device, self.amp):
            return self.denoiser(x_t, timesteps, self.denoiser.encode(image), x0_prev, z)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """All that depends on neither x_t nor t, computed once an image (B, image channels, *S)."""
        with autocast(image.device, self.amp):
            return self.denoiser.encode(image)

    def denoise(
        self,
        x_t: torch.Tensor,
        t: int | torch.Tensor,
        condition: torch.Tensor,
        x0_prev: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict x_0 (B, C, *S), float32, from x_t (B, C, *S) at t (an int or (B,)) under an encoded condition."""
        t = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        with autocast(x_t.device, self.amp):
            output = self.denoiser(x_t, t, condition, x0_prev, z)
        return self.prediction.to_x_0(output, x_t, t, self.schedule)

    @torch.no_grad()
    def sample(
        self,
        image: torch.Tensor,
        *,
        cases: Sequence[str] | None = None,
        full_size: Sequence[int] | None = None,
        window: Sequence[slice] | None = None,
        callback: StepCallback | None = None,
    ) -> Segmentation:
        """Segment an image by sampling, averaging over draws as they come.

        Args:
            image: (B, image channels, *S), normalised as in training.
            cases: a name for each image, part of the key of its noise; by default the files' names.
            full_size: where `image` is a window: the size (*S_full) of the image it is cut from.
            window: where `image` is a window: its slices in that image. The noise is cut with them, so that
                overlapping windows of an image see the same noise.
            callback: called after every step of every group of draws.

        Raises:
            DataError: the number of channels or of axes is not what the network takes, or there is not one case name
                for each image.
            SpecError: a window without `cases`.
        """
        self.check_image(image)
        names = check_cases(image, cases, window)
        image = image.as_subclass(torch.Tensor)  # MONAI's meta data has served; it would slow every operation down
        with evaluating(self):
            if self.schedule is None:
                probabilities = self.segment_once(image)
                return Segmentation.of_one_draw(probabilities)
            condition = self.encode(image)
            count = StepCount(callback)

            def segment(noise: SamplingNoise) -> torch.Tensor:
                x_0 = self.run_sampler(
                    condition, noise.x_T(), noise, latents=noise.latent, draws=noise.draws, callback=count
                )
                return self.codec.probabilities(x_0)

            size = full_size or image.shape[2:]
            result = self.average_draws(segment, names, size, window=window, device=image.device)
            return replace(result, steps=count.steps)

    def average_draws(
        self,
        segment: Callable[[SamplingNoise], torch.Tensor],
        cases: Sequence[str],
        size: Sequence[int],
        *,
        window: Sequence[slice] | None = None,
        draws_per_batch: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Segmentation:
        """Average over all draws, a group of them at a time.

        Args:
            segment: gives the probabilities (B * n, K, *S) of the n draws whose noise it gets, those of an image side
                by side.
            cases: a name for each of the B images.
            size: *S_full of the noise.
            window: slices to cut from the noise, where an image is a window of a larger one.
            draws_per_batch: n, in place of the segmenter's own; the last group may be smaller.
            device: where the noise goes to.
        """
        moments = RunningMoments()
        most = draws_per_batch or self.draws_per_batch
        for first in range(0, self.draws, most):
            noise = SamplingNoise(
                self.seed,
                cases,
                (self.codec.channels, *size),
                draws=range(first, min(first + most, self.draws)),
                window=window,
                device=device,
            )
            probabilities = segment(noise)
            if self.draws == 1:  # moments would be one more tensor of this size
                return Segmentation.of_one_draw(probabilities)
            moments.add(*probabilities.unflatten(0, (len(cases), -1)).unbind(1))  # (B, K, *S) each
            del probabilities  # the next draws are sampled without these beside them
        return Segmentation(moments.mean, moments.variance(), self.draws)

    def run_sampler(
        self,
        condition: torch.Tensor,
        x_T: torch.Tensor,
        noise: Callable[[int], torch.Tensor],
        *,
        latents: Callable[[int, int], torch.Tensor] | None = None,
        draws: Sequence[int] = (0,),
        callback: StepCallback | None = None,
    ) -> torch.Tensor:
        """Sample x_0 (B * n, C, *S) from x_T (B * n, C, *S), n draws under each of the B conditions.

        Args:
            condition: what `encode` returned for B images.
            x_T: the noise to start from, the draws of an image side by side.
            noise: gives the noise (B * n, C, *S) of the visited step of an index.
            latents: gives the latent z (B * n, features) of the visited step of an index; needed by networks that
                have a latent, not called for others.
            draws: which draws these are, for the callback.
            callback: called after every step.

        Raises:
            SpecError: a supervised network, or no latents for a network that needs them.
        """
        shared = share_condition(condition, len(x_T) // len(condition))

        def denoise(x_t: torch.Tensor, t: int, x0_prev: torch.Tensor | None, z: torch.Tensor | None) -> torch.Tensor:
            return self.denoise(x_t, t, shared, x0_prev, z)

        return self.run_steps(denoise, x_T, noise, latents=latents, draws=draws, callback=callback)

    def run_steps(
        self,
        denoise: LatentDenoise,
        x_T: torch.Tensor,
        noise: Callable[[int], torch.Tensor],
        *,
        latents: Callable[[int, int], torch.Tensor] | None = None,
        draws: Sequence[int] = (0,),
        callback: StepCallback | None = None,
    ) -> torch.Tensor:
        """Sample x_0 with any way of predicting it, such as by windows; the rest is as in `run_sampler`.

        Args:
            denoise: predicts x_0 at every visited step.
            x_T: see `run_sampler`.
            noise: see `run_sampler`.
            latents: see `run_sampler`.
            draws: see `run_sampler`.
            callback: see `run_sampler`.

        Raises:
            SpecError: as `run_sampler`.
        """
        if self.schedule is None:
            msg = "a supervised network does not sample; call it with the image alone"
            raise SpecError(msg)
        features = getattr(self.denoiser, "latent_dim", 0)
        if features and latents is None:
            msg = f"this network takes a latent of {features} features at every step; give latents"
            raise SpecError(msg)
        timesteps = self.schedule.timesteps(self.steps)

        def denoise_with_latent(x_t: torch.Tensor, t: int, x0_prev: torch.Tensor | None) -> torch.Tensor:
            z = latents(timesteps.index(t), features) if features and latents is not None else None
            return denoise(x_t, t, x0_prev, z)

        def on_step(step: SamplerStep) -> bool | None:
            return None if callback is None else callback(SegmenterStep(step, draws, self.codec))

        sample = get_sampler(self.sampler)
        return sample(
            denoise_with_latent, x_T, self.schedule, timesteps, noise, callback=on_step, **self.sampler_options
        )

    def segment_once(self, image: torch.Tensor) -> torch.Tensor:
        """Class probabilities (B, K, *S) of a supervised network for an image (B, image channels, *S)."""
        nothing = image.new_zeros((image.shape[0], 0, *image.shape[2:]))  # (B, 0, *S)
        return self.codec.probabilities(self.denoise(nothing, 0, self.encode(image)))  # (B, K, *S)

    def check_image(self, image: torch.Tensor) -> None:
        """Make sure that images have the axes and channels that the network takes.

        Raises:
            DataError: they do not.
        """
        axes, channels = getattr(self.denoiser, "spatial_dims", None), getattr(self.denoiser, "image_channels", None)
        if axes is not None and image.ndim != axes + 2:
            msg = (
                f"got an image of shape {tuple(image.shape)}; this network takes (batch, channel, {axes} spatial "
                "axes): add or drop an axis"
            )
            raise DataError(msg)
        if channels is not None and image.shape[1] != channels:
            msg = f"got an image of {image.shape[1]} channels; this network was built for {channels}: give that many"
            raise DataError(msg)


def share_condition(condition: torch.Tensor, draws: int) -> torch.Tensor:
    """Repeat each of B conditions for `draws` draws: (B, …) to (B * draws, …), without a copy where B is one."""
    return condition.unsqueeze(1).expand(-1, draws, *condition.shape[1:]).flatten(0, 1)


def _check_sampler(sampler: str, options: dict[str, float | str]) -> None:
    check_options(get_sampler(sampler), options, f"sampler {sampler!r}", leave_out=("callback",))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: dropout must not disturb sampling, whoever calls."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:  # one by one: parts that were frozen in evaluation mode stay so
            part.training = True
