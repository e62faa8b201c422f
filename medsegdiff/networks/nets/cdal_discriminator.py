"""The discriminator of cDAL, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from medsegdiff.errors import SpecError, check_at_least
from medsegdiff.networks.blocks.fir import FIRDownsample
from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.layers import make_conv
from medsegdiff.networks.blocks.minibatch_stddev import MinibatchStddev
from medsegdiff.networks.blocks.step_embedding import StepEmbedding
from medsegdiff.networks.blocks.zero_init import zeroed

SLOPE = 0.2


class CDALDiscriminator(nn.Module):
    """D(x_prev, x_t, t): whether x_prev is what a true mask left one step before x_t (Hejrati et al. 2024).

    Residual blocks without norm over both masks side by side, each told the time (section 2.2, after Xiao et al.
    2022); the image is not shown. Its features make the attention map, see `medsegdiff.engines.attention`. The paper
    gives no sizes: the defaults are its release's for MoNuSeg and chest X-ray.

    Args:
        spatial_dims: 2 or 3.
        mask_channels: C, channels of x_prev, and of x_t.
        channels: features behind the first convolution and behind each block; one more than there are blocks.
        downsample: for each block, whether it halves its input; by default all do.
        time_dim: features of the time embedding, even.
        normal_init: start all convolutions from a normal distribution of deviation .02, also those that else start at
            zero, as the release does for its large discriminator.
        stddev_group: samples, of those of one process, whose differences are shown to the last convolution, see
            `MinibatchStddev`; 1 for none, with which several processes train as one.

    Raises:
        SpecError: the settings contradict each other.
    """

    def __init__(
        self,
        spatial_dims: int,
        mask_channels: int,
        *,
        channels: Sequence[int] = (128, 256, 512, 512, 512, 512, 512),
        downsample: Sequence[bool] | None = None,
        time_dim: int = 256,
        normal_init: bool = True,
        stddev_group: int = 4,
    ) -> None:
        super().__init__()
        halves = [True] * (len(channels) - 1) if downsample is None else list(downsample)
        _check_settings(spatial_dims, mask_channels, channels, halves)
        self.spatial_dims = spatial_dims
        self.mask_channels = mask_channels
        # By how much the first convolution's and each block's output is smaller than the input.
        self._factors = [2 ** sum(halves[:place]) for place in range(len(channels))]
        self.activation = nn.LeakyReLU(SLOPE)
        self.step_embedding = StepEmbedding(time_dim, time_dim, nn.LeakyReLU(SLOPE))
        self.first = glorot(make_conv(spatial_dims, 2 * mask_channels, channels[0], 1))
        self.blocks = nn.ModuleList(
            _Block(spatial_dims, narrow, wide, time_dim, downsample=half)
            for (narrow, wide), half in zip(pairwise(channels), halves, strict=True)
        )
        check_at_least(1, stddev_group=stddev_group)
        self.stddev = MinibatchStddev(stddev_group)
        self.last = glorot(make_conv(spatial_dims, channels[-1] + 1, channels[-1], 3))
        self.head = glorot(nn.Linear(channels[-1], 1))
        if normal_init:
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d):
                    nn.init.normal_(module.weight, std=0.02)

    @property
    def factors(self) -> list[int]:
        """The layers that `features` gives, by how many times (1, 2, 4, …) they are smaller than the input."""
        return sorted(set(self._factors))

    def forward(self, x_prev: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Logits (B,), large where x_prev seems real.

        Args:
            x_prev: masks (B, C, *S) one step less noisy than x_t, real or made from the generator's prediction.
            x_t: noisy masks (B, C, *S) at t.
            t: 0-based time steps (B,).
        """
        h, time = self._enter(x_prev, x_t, t)  # (B, C_0, *S), (B, E)
        for block in self.blocks:
            h = block(h, time)  # (B, C_l, *S/f)
        h = self.activation(self.last(self.stddev(h)))  # (B, C_L, *S/f)
        return self.head(h.flatten(2).sum(dim=2)).squeeze(1)  # (B,)

    def features(
        self, x_prev: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, *, down_to: int | None = None
    ) -> dict[int, torch.Tensor]:
        """Feature maps by how many times smaller than the input they are; of several of a size, the deepest.

        Args:
            x_prev: as in `forward`.
            x_t: as in `forward`.
            t: as in `forward`.
            down_to: compute no further than this factor.

        Returns:
            {1: (B, C_0, *S), 2: (B, C_1, *S/2), …}, odd sizes rounded up.
        """
        h, time = self._enter(x_prev, x_t, t)  # (B, C_0, *S), (B, E)
        found = {self._factors[0]: h}
        for block, factor in zip(self.blocks, self._factors[1:], strict=True):
            if down_to is not None and factor > down_to:
                break
            h = found[factor] = block(h, time)  # (B, C_l, *S/f)
        return found

    def _enter(self, x_prev: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(torch.cat([x_prev, x_t], dim=1)), self.activation(self.step_embedding(t))


class _Block(nn.Module):
    """Twice (leaky ReLU, conv), the time in between, and a shortcut; their sum over sqrt(2)."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, time_dim: int, *, downsample: bool
    ) -> None:
        super().__init__()
        self.conv1 = glorot(make_conv(spatial_dims, in_channels, out_channels, 3))
        self.time_projection = glorot(nn.Linear(time_dim, out_channels))
        self.conv2 = zeroed(make_conv(spatial_dims, out_channels, out_channels, 3))
        self.shortcut = glorot(make_conv(spatial_dims, in_channels, out_channels, 1, bias=False))
        self.down = FIRDownsample(spatial_dims) if downsample else nn.Identity()
        self.activation = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.activation(x))  # (B, D, *S)
        shift = self.time_projection(time)  # (B, D)
        h = self.activation(h + shift.view(*shift.shape, *(1,) * (x.ndim - 2)).to(h.dtype))  # (B, D, *S)
        h = self.conv2(self.down(h))  # (B, D, *S')
        return (self.shortcut(self.down(x)) + h) * 0.5**0.5  # (B, D, *S')


def _check_settings(spatial_dims: int, mask_channels: int, channels: Sequence[int], halves: Sequence[bool]) -> None:
    if spatial_dims not in (2, 3):
        msg = f"spatial_dims must be 2 or 3, got {spatial_dims}"
        raise SpecError(msg)
    if mask_channels < 1:
        msg = f"mask_channels is {mask_channels}; a discriminator judges masks of at least 1 channel"
        raise SpecError(msg)
    if not channels or len(halves) != len(channels) - 1:
        msg = (
            f"got {len(channels)} channels and {len(halves)} entries of downsample; give the channels of the first "
            "convolution and of each block, and one entry of downsample for each block"
        )
        raise SpecError(msg)
