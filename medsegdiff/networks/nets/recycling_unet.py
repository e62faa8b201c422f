"""The U-Net of the recycling paper, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.checkpointing import call
from medsegdiff.networks.blocks.layers import make_conv, make_norm, make_up_conv
from medsegdiff.networks.blocks.levels import level_depths
from medsegdiff.networks.blocks.padding import crop_to, pad_at_end, padding_to_multiple
from medsegdiff.networks.blocks.residual import ResidualBlock
from medsegdiff.networks.blocks.time_embedding import TimeEmbedding
from medsegdiff.networks.blocks.transformer import BottleneckTransformer
from medsegdiff.networks.nets.denoiser import Denoiser


class RecyclingUNet(Denoiser):
    """Residual U-Net with summed skip connections and a transformer at the bottom (Fu et al. 2023, Figure 2).

    Image, noisy mask and (for self-conditioning) the previous prediction are concatenated at the entrance. Every
    block of the encoder, and the layer that opens each of its levels, hands its output to one block of the decoder,
    where it is added. Defaults are the paper's; its time conditioning is replaced (see `ResidualBlock`). Inputs of
    any size are padded with zeros inside and the output is cropped again.

    Args:
        spatial_dims: 2 or 3.
        image_channels: channels of the image.
        mask_channels: channels C of x_t; 0 makes a supervised network that sees only the image.
        out_channels: channels of the output, one per class for logits.
        num_train_timesteps: T of the schedule, for the time embedding; ignored when `mask_channels` is 0.
        channels: features of each level, from full resolution down.
        num_res_blocks: blocks of each encoder level; a decoder level has one more. One number serves all levels.
        self_conditioning: take the previous prediction of x_0 as C further input channels.
        transformer: whether the bottleneck has its transformer (the paper's Table 5 leaves it out).
        num_heads: heads of that transformer.
        token_grid: size of the learned position embedding along each axis; it is interpolated to other sizes.
        norm: "instance" (paper) or "group".
        stem_convs: convolutions at the entrance (paper: 1).
        dropout: probability of dropping a feature map inside a block.
        time_dim: features of the sinusoidal time embedding.
        clip_mask: feed `(clip(x_t, -1, 1) + 1) / 2` instead of x_t, as the paper's release does.
        mask_scales: T factors, one a time step, by which x_t is multiplied at the entrance; None leaves it as it is.
            With sqrt(abar_t) the network sees the best linear guess of x_0, not a mask buried in noise of unit
            variance, and need not learn to ignore it at large t.
        mask_gain: factor on the initial weights by which x_t enters. With 1 (paper) the entrance starts with more noise
            than image; with 0 training starts from the supervised network and learns to use x_t, which is quicker.
        gradient_checkpointing: recompute activations of every block in the backward pass, to save memory.

    Raises:
        SpecError: the settings contradict each other.
    """

    def __init__(
        self,
        spatial_dims: int,
        image_channels: int,
        mask_channels: int,
        out_channels: int,
        *,
        num_train_timesteps: int = 1001,
        channels: Sequence[int] = (32, 64, 128, 256),
        num_res_blocks: int | Sequence[int] = 2,
        self_conditioning: bool = False,
        transformer: bool = True,
        num_heads: int = 8,
        token_grid: int | Sequence[int] = 16,
        norm: str = "instance",
        stem_convs: int = 1,
        dropout: float = 0.0,
        time_dim: int = 256,
        clip_mask: bool = False,
        mask_scales: Sequence[float] | None = None,
        mask_gain: float = 1.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if clip_mask and mask_scales is not None:
            msg = "got clip_mask and mask_scales; x_t enters in one way: give one of them"
            raise SpecError(msg)
        depths = level_depths(spatial_dims, channels, num_res_blocks, least=0)
        if self_conditioning and not mask_channels:
            msg = "self_conditioning needs a noisy mask to refine: give mask_channels of at least 1, got 0"
            raise SpecError(msg)
        self.spatial_dims = spatial_dims
        self.image_channels = image_channels
        self.mask_channels = mask_channels
        self.self_conditioning = self_conditioning
        self.clip_mask = clip_mask
        # Not persistent: it follows from the schedule, which the run's specification holds.
        scales = None if mask_scales is None else torch.tensor(mask_scales, dtype=torch.float32)
        self.mask_scales: torch.Tensor | None
        self.register_buffer("mask_scales", scales, persistent=False)
        self.gradient_checkpointing = gradient_checkpointing
        self.size_factor = 2 ** (len(channels) - 1)
        time_dim = time_dim if mask_channels else 0
        self.time_embedding = TimeEmbedding(time_dim, num_train_timesteps) if time_dim else None
        self.activation = nn.GELU(approximate="tanh")

        def blocks(width: int, depth: int) -> nn.ModuleList:
            return nn.ModuleList(
                ResidualBlock(spatial_dims, width, time_dim=time_dim, norm=norm, dropout=dropout) for _ in range(depth)
            )

        in_channels = image_channels + mask_channels * (2 if self_conditioning else 1)
        self.stem = nn.Sequential()
        for width in (in_channels, *[channels[0]] * (stem_convs - 1)):
            self.stem.append(make_conv(spatial_dims, width, channels[0], 3, bias=False))
            self.stem.append(make_norm(norm, spatial_dims, channels[0]))
            self.stem.append(nn.GELU(approximate="tanh"))
        entrance = cast(torch.Tensor, self.stem[0].weight)
        entrance.data[:, image_channels:] *= mask_gain
        self.encoder = nn.ModuleList(blocks(width, depth) for width, depth in zip(channels, depths, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(
                make_conv(spatial_dims, narrow, wide, 2, stride=2, padding=0, bias=False),
                make_norm(norm, spatial_dims, wide),
            )
            for narrow, wide in pairwise(channels)
        )
        self.bottleneck = blocks(channels[-1], 2)
        grid = [token_grid] * spatial_dims if isinstance(token_grid, int) else token_grid
        self.transformer = (
            BottleneckTransformer(spatial_dims, channels[-1], token_grid=grid, num_heads=num_heads)
            if transformer
            else nn.Identity()
        )
        self.decoder = nn.ModuleList(blocks(width, depth + 1) for width, depth in zip(channels, depths, strict=True))
        self.up = nn.ModuleList(
            nn.Sequential(make_up_conv(spatial_dims, wide, narrow, bias=False), make_norm(norm, spatial_dims, narrow))
            for narrow, wide in pairwise(channels)
        )
        self.head = make_conv(spatial_dims, channels[0], out_channels, 1)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """All that depends on neither x_t nor t: here the image (B, image_channels, *S) itself."""
        return image

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor,
        x0_prev: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from the noisy mask, see `Denoiser.forward`; without a latent, `z` is not used."""
        size = x_t.shape[2:]
        # Twice the factor at least, so that an instance norm at the bottom has more than one voxel to normalise.
        padding = padding_to_multiple(size, self.size_factor, minimum=2 * self.size_factor)
        h = pad_at_end(self._join_inputs(x_t, t, condition, x0_prev), padding)  # (B, in, *S')
        time = self.activation(self.time_embedding(t)) if self.time_embedding is not None else None  # (B, E)

        h = self.stem(h)  # (B, C_0, *S')
        skips = []
        for level, blocks in enumerate(self.encoder):
            if level:
                h = self.down[level - 1](h)  # (B, C_l, *S'/2^l)
            skips.append(h)
            for block in cast(nn.ModuleList, blocks):
                h = self._run(block, h, time)  # (B, C_l, *S'/2^l)
                skips.append(h)
        before, after = self.bottleneck
        h = self._run(after, self.transformer(self._run(before, h, time)), time)  # (B, C_L, *S'/2^L)
        for level in reversed(range(len(self.decoder))):
            for block in cast(nn.ModuleList, self.decoder[level]):
                h = self._run(block, h + skips.pop(), time)  # (B, C_l, *S'/2^l)
            if level:
                h = self.up[level - 1](h)  # (B, C_{l-1}, *S'/2^{l-1})
        return crop_to(self.head(h), size)  # (B, out, *S)

    def _join_inputs(
        self, x_t: torch.Tensor, t: torch.Tensor, image: torch.Tensor, x0_prev: torch.Tensor | None
    ) -> torch.Tensor:
        mask = x_t
        if self.clip_mask:
            mask = (x_t.clamp(-1, 1) + 1) / 2
        elif self.mask_scales is not None:
            mask = x_t * self.mask_scales[t].view(-1, *(1,) * (x_t.ndim - 1))
        inputs = [image, mask]
        if self.self_conditioning:
            inputs.append(torch.zeros_like(x_t) if x0_prev is None else x0_prev)
        return torch.cat(inputs, dim=1)  # (B, image + C (+ C), *S)

    def _run(self, block: nn.Module, h: torch.Tensor, time: torch.Tensor | None) -> torch.Tensor:
        return call(block, h, time, recompute=self.gradient_checkpointing)
