"""Sampling as a network without randomness of its own, for TorchScript and ONNX."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from medsegdiff.data.noise import SamplingNoise
from medsegdiff.errors import DataError
from medsegdiff.files import written_whole
from medsegdiff.networks.segmenter import DiffusionSegmenter


class TraceableSampler(nn.Module):
    """A segmenter whose noise is an input, so that it can be traced.

    A generator inside a trace becomes a constant: every call would use the noise of the example. Sampler, steps and
    the size of the image are fixed by the trace; it takes one draw, and in full precision, whatever the segmenter does.
    Weights are shared with the segmenter, which is set to evaluation; later changes of how that samples are not.

    Args:
        segmenter: what to wrap; a supervised one takes the image alone.
    """

    def __init__(self, segmenter: DiffusionSegmenter) -> None:
        super().__init__()
        fixed = copy.copy(segmenter)  # shallow: its settings are its own, its weights are not
        fixed.amp = "off"
        self.segmenter = fixed.eval()

    def forward(
        self,
        image: torch.Tensor,
        x_T: torch.Tensor | None = None,
        noises: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Segment.

        Args:
            image: (B, image channels, *S).
            x_T: standard normal noise to start from (B, C, *S), C being `segmenter.mask_channels`.
            noises: standard normal noise (steps, B, C, *S), noises[k] being added at the k-th visited step. The last
                step adds none, and deterministic samplers add none at all; the shape is the same for all of them.
            latents: for a network with a latent, standard normal (steps, B, features), one for each visited step.

        Returns:
            Class probabilities (B, K, *S).

        Raises:
            DataError: noise for a supervised network, none for another, or of another number of steps; latents for a
                network without, or none for one with a latent.
        """
        with torch.no_grad():
            if self.segmenter.supervised:
                if x_T is not None or noises is not None or latents is not None:
                    msg = "got noise for a supervised network; give the image alone"
                    raise DataError(msg)
                return self.segmenter.segment_once(image)  # (B, K, *S)
            steps, features = self.segmenter.steps, self.segmenter.denoiser.latent_dim
            if x_T is None or noises is None or noises.shape[0] != steps:
                msg = f"a network that samples takes x_T and the noises of {steps} steps; give both"
                raise DataError(msg)
            if (latents is None) != (features == 0) or (latents is not None and latents.shape[0] != steps):
                msg = f"this network takes {f'latents ({steps}, B, {features})' if features else 'no latents'}; give so"
                raise DataError(msg)
            x_0 = self.segmenter.run_sampler(
                self.segmenter.encode(image),
                x_T,
                lambda step: noises[step],
                latents=None if latents is None else lambda step, _: latents[step],
            )  # (B, C, *S)
            return self.segmenter.codec.probabilities(x_0)  # (B, K, *S)

    def noise_inputs(
        self, spatial_shape: Sequence[int], *, cases: Sequence[str] = ("case",)
    ) -> tuple[torch.Tensor, ...]:
        """The noise that the segmenter itself would use for the first draw of the named cases, as `forward` takes it.

        Args:
            spatial_shape: *S.
            cases: a name for each of the B images.

        Returns:
            x_T (B, C, *S) and noises (steps, B, C, *S), and latents (steps, B, features) for a network that has a
            latent; nothing for a supervised network.
        """
        if self.segmenter.supervised:
            return ()
        noise = SamplingNoise(self.segmenter.seed, cases, (self.segmenter.mask_channels, *spatial_shape))
        steps, features = range(self.segmenter.steps), self.segmenter.denoiser.latent_dim
        fields = noise.x_T(), torch.stack([noise(step) for step in steps])
        return (*fields, torch.stack([noise.latent(step, features) for step in steps])) if features else fields


def export_torchscript(
    segmenter: DiffusionSegmenter, path: str | os.PathLike[str], *, spatial_shape: Sequence[int], image_channels: int
) -> torch.jit.ScriptModule:
    """Trace `TraceableSampler` for one image of `spatial_shape` and write it for `torch.jit.load`.

    Args:
        segmenter: with trained weights; it is traced on the device that these are on.
        path: of the file to write.
        spatial_shape: *S, which the trace fixes together with the batch size of one.
        image_channels: channels of the image.

    Returns:
        The traced module.

    Raises:
        DataError: the file cannot be written.
    """
    sampler = TraceableSampler(copy.deepcopy(segmenter)).requires_grad_(False)
    device = next(sampler.parameters()).device
    example = [torch.zeros(1, image_channels, *spatial_shape), *sampler.noise_inputs(spatial_shape)]
    with warnings.catch_warnings():
        # Sizes, sampler and steps are meant to become constants.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(sampler, [tensor.to(device) for tensor in example], check_trace=False)
    with written_whole(path, advice="free space, or choose another folder") as partial:
        torch.jit.save(traced, str(partial))
    return traced
