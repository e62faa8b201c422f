"""A single network that segments images by windows, as a plan says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from medsegdiff.data.noise import SamplingNoise
from medsegdiff.inferers.window_plan import WindowPlan
from medsegdiff.inferers.windows import Box, WindowBlend, WindowGrid
from medsegdiff.networks.segmenter import (
    DiffusionSegmenter,
    Segmentation,
    SegmenterStep,
    StepCallback,
    StepCount,
    evaluating,
    share_condition,
)

AVERAGES = ("steps", "probabilities", "log_probabilities")

_LEAST = 1e-5  # probabilities are clipped to it before their logarithms are averaged, as Fu et al.'s release does

_Place = tuple[int, Box]
"""Which image, and which window of it."""


class WindowSampler:
    """Segments a batch of images by windows.

    Args:
        segmenter: the network.
        image: (B, image channels, *S), on the images' own grid.
        grids: the windows of each image, alike but for those that are left out.
        plan: how many at once, what to keep and where to stitch.
        average: what is averaged where windows overlap, see `WindowAveragedInferer`.
        mode: of blending, "constant" or "gaussian".
        device: the network's.
    """

    def __init__(
        self,
        segmenter: DiffusionSegmenter,
        image: torch.Tensor,
        grids: Sequence[WindowGrid],
        plan: WindowPlan,
        *,
        average: str,
        mode: str,
        device: torch.device,
    ) -> None:
        self.segmenter = segmenter
        self.grids = grids
        self.plan = plan
        self.average = average
        self.device = device
        self.stitch_device = plan.stitch_device
        self._image = grids[0].pad(image)  # (B, image channels, *S')
        blends = {id(grid): WindowBlend(grid, mode, self.stitch_device) for grid in grids}
        self._blends = [blends[id(grid)] for grid in grids]
        self._conditions: dict[int, torch.Tensor] = {}
        places = [(b, window) for b, grid in enumerate(grids) for window in grid.windows]
        size = plan.windows_per_batch
        self._batches = [places[first : first + size] for first in range(0, len(places), size)]

    @torch.no_grad()
    def sample(self, names: Sequence[str], callback: StepCallback | None) -> Segmentation:
        """Segment the images, whose noise goes by these names; see `WindowAveragedInferer.sample`."""
        segmenter, grid = self.segmenter, self.grids[0]
        with evaluating(segmenter):
            if segmenter.supervised:
                probabilities = self._segment_once()
                result = Segmentation.of_one_draw(probabilities)
            else:
                count = StepCount(callback)
                segment = self._segment_by_steps if self.average == "steps" else self._segment_windows
                result = segmenter.average_draws(
                    lambda noise: segment(noise, count),
                    names,
                    grid.size,
                    draws_per_batch=self.plan.draws_per_batch,
                    device=self.stitch_device,
                )
                result = replace(result, steps=count.steps)
        return replace(result, probabilities=grid.crop(result.probabilities), variance=grid.crop(result.variance))

    def _segment_by_steps(self, noise: SamplingNoise, callback: StepCallback) -> torch.Tensor:
        """Probabilities (B * n, K, *S') of a group of draws, windows being blended at every step."""
        x_0 = self.segmenter.run_steps(
            self._denoise,
            noise.x_T(),
            noise,
            latents=noise.latent,
            draws=noise.draws,
            callback=self._on_the_images_grid(callback),
        )  # (B * n, C, *S')
        return self._only_background_outside(self.segmenter.codec.probabilities(x_0))

    def _denoise(self, x_t: torch.Tensor, t: int, x0_prev: torch.Tensor | None, z: torch.Tensor | None) -> torch.Tensor:
        """One x_0 of the whole images (B * n, C, *S') from the x_0 of every window."""
        draws = len(x_t) // len(self.grids)
        blended = torch.zeros_like(x_t)
        for number, places in self._filled_batches():
            x_0 = self.segmenter.denoise(
                self._cut(x_t, places),
                t,
                share_condition(self._condition(number, places), draws),
                None if x0_prev is None else self._cut(x0_prev, places),
                None if z is None else self._rows(z, places),
            )  # (windows * n, C, *roi)
            self._blend(blended, number, x_0)
        background = self.segmenter.codec.encode(x_t.new_zeros((1, 1, *[1] * (x_t.ndim - 2))))[0]  # (C, 1, …)
        return self._fill_outside(blended, background)

    def _segment_windows(self, noise: SamplingNoise, callback: StepCallback) -> torch.Tensor:
        """Probabilities (B * n, K, *S') of a group of draws, every window being sampled to its end."""
        segmenter, draws = self.segmenter, len(noise.draws)
        fields = _NoiseFields(noise, keep=self.plan.keep_noise)
        shape = (len(self.grids) * draws, segmenter.codec.num_classes, *self.grids[0].size)
        blended = torch.zeros(shape, device=self.stitch_device)
        for number, places in self._filled_batches():

            def noise_of(step: int, places: Sequence[_Place] = places) -> torch.Tensor:
                return self._cut(fields(step), places)

            def latents(step: int, features: int, places: Sequence[_Place] = places) -> torch.Tensor:
                return self._rows(noise.latent(step, features), places)

            x_T = self._cut(fields(noise.START), places)
            x_0 = segmenter.run_sampler(
                self._condition(number, places), x_T, noise_of, latents=latents, draws=noise.draws, callback=callback
            )
            self._blend(blended, number, self._to_average(segmenter.codec.probabilities(x_0)))
        return self._only_background_outside(self._averaged(blended))

    def _segment_once(self) -> torch.Tensor:
        """Probabilities (B, K, *S') of a supervised network."""
        shape = (len(self.grids), self.segmenter.codec.num_classes, *self.grids[0].size)
        blended = torch.zeros(shape, device=self.stitch_device)
        for number, places in self._filled_batches():
            probabilities = self.segmenter.segment_once(self._cut(self._image, places))  # (windows, K, *roi)
            self._blend(blended, number, self._to_average(probabilities))
        return self._only_background_outside(self._averaged(blended))

    def _filled_batches(self) -> Iterable[tuple[int, list[_Place]]]:
        """Batches of windows, all of one size: a compiled network is compiled once. The last one repeats a window."""
        for number, places in enumerate(self._batches):
            yield number, places + places[-1:] * (len(self._batches[0]) - len(places))

    def _condition(self, number: int, places: Sequence[_Place]) -> torch.Tensor:
        """The conditions (windows, …) of a batch of windows."""
        if number in self._conditions:
            return self._conditions[number]
        condition = self.segmenter.encode(self._cut(self._image, places))
        if self.plan.conditions == "kept":
            self._conditions[number] = condition
        return condition

    def _cut(self, x: torch.Tensor, places: Sequence[_Place]) -> torch.Tensor:
        """The windows (windows * n, C, *roi) of x (B * n, C, *S'), on the network's device."""
        n = len(x) // len(self.grids)
        return torch.cat([x[(slice(b * n, (b + 1) * n), slice(None), *window)] for b, window in places]).to(self.device)

    def _rows(self, z: torch.Tensor, places: Sequence[_Place]) -> torch.Tensor:
        """The latents (windows * n, features) of windows, those of their draw, from all latents (B * n, features)."""
        n = len(z) // len(self.grids)
        return torch.cat([z[b * n : (b + 1) * n] for b, _ in places]).to(self.device)

    def _blend(self, blended: torch.Tensor, number: int, parts: torch.Tensor) -> None:
        """Add a batch of windows (windows * n, C, *roi) to what they are blended into, (B * n, C, *S')."""
        n = len(blended) // len(self.grids)
        # The windows that only fill the batch up are not among its own.
        for (b, window), part in zip(self._batches[number], parts.to(blended.device).split(n), strict=False):
            self._blends[b].add(blended[b * n : (b + 1) * n], window, part)

    def _to_average(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities.clamp(_LEAST, 1).log() if self.average == "log_probabilities" else probabilities

    def _averaged(self, blended: torch.Tensor) -> torch.Tensor:
        if self.average == "log_probabilities":
            blended.exp_()  # the geometric mean, whose classes need not sum to one
            blended /= blended.sum(dim=1, keepdim=True)
        return blended

    def _only_background_outside(self, probabilities: torch.Tensor) -> torch.Tensor:
        background = probabilities.new_zeros((probabilities.shape[1], *[1] * (probabilities.ndim - 2)))  # (K, 1, …)
        background[0] = 1
        return self._fill_outside(probabilities, background)

    def _fill_outside(self, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """x (B * n, C, *S'), in place, with `value` (C, 1, …) where there are no windows."""
        n = len(x) // len(self.grids)
        for b, grid in enumerate(self.grids):
            grid.fill_outside(x[b * n : (b + 1) * n], value)
        return x

    def _on_the_images_grid(self, callback: StepCallback) -> StepCallback:
        """The callback, spared what pads the images."""
        grid = self.grids[0]

        def on_step(seen: SegmenterStep) -> bool | None:
            step = replace(seen.step, x_t=grid.crop(seen.step.x_t), x_0=grid.crop(seen.step.x_0))
            return callback(replace(seen, step=step))

        return on_step if grid.is_padded else callback


class _NoiseFields:
    """Fields of noise, made when they are asked for, and kept or made again."""

    def __init__(self, noise: SamplingNoise, *, keep: bool) -> None:
        self.noise = noise
        self.keep = keep
        self._kept: dict[int | str, torch.Tensor] = {}

    def __call__(self, step: int | str) -> torch.Tensor:
        if step in self._kept:
            return self._kept[step]
        field = self.noise.x_T() if step == self.noise.START else self.noise(int(step))
        if self.keep:
            self._kept[step] = field
        return field
