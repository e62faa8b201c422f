"""The network of SegDiff, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from medsegdiff.errors import SpecError, check_at_least
from medsegdiff.networks.blocks.attention import AttentionBlock
from medsegdiff.networks.blocks.checkpointing import call
from medsegdiff.networks.blocks.group_norm import make_group_norm
from medsegdiff.networks.blocks.layers import make_conv
from medsegdiff.networks.blocks.levels import level_depths
from medsegdiff.networks.blocks.padding import crop_to, pad_at_end, padding_to_multiple
from medsegdiff.networks.blocks.resampling import make_downsample, make_upsample
from medsegdiff.networks.blocks.time_residual import TimeResidualBlock, make_time_embedding
from medsegdiff.networks.blocks.zero_init import zeroed
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.nets.image_encoders import make_image_encoder

CONDITIONS = ("sum", "concat_image", "sum_after_down", "concat_features")


class SegDiffUNet(Denoiser):
    """D(E(F(x_t) + G(I), t), t): a U-Net over the sum of two encodings (Amit et al. 2021, equation 18).

    G encodes the image once for all time steps and draws, F is one convolution of the noisy mask, and E and D are the
    two sides of a U-Net with additive time, attention at the coarse levels and concatenated skip connections. Defaults
    are the paper's for images of 256 x 256 on MoNuSeg, with the widths of G and the time embedding of its release.
    The untrained network gives exactly zero. Inputs of any size are padded with zeros inside (the mask and the
    features of the image) and the output is cropped again.

    Args:
        spatial_dims: 2 or 3.
        image_channels: channels of the image.
        mask_channels: channels of x_t, one for two classes in the paper; 0 makes a supervised network, without F and
            without time, that sees only the image.
        out_channels: channels of the output, as many as x_t has where noise is predicted.
        num_train_timesteps: T of the schedule, for the table of time embeddings.
        channels: features of each level, from full resolution down; F and G give as many as the first.
        num_res_blocks: blocks of each encoder level, at least 1; a decoder level has one more. One number serves all.
        attention_levels: levels, 0 being full resolution, of which every block is followed by attention. The two
            blocks at the bottom have attention between them in any case.
        num_heads: heads of each attention.
        condition: how the image comes in: "sum" (paper) or a variant of its Table 4. "concat_image" (one) has no G
            and F takes image and mask together; "sum_after_down" (two) adds G, through a convolution of stride two,
            behind the first downsampling of what F and the first level made of x_t; "concat_features" (three) gives
            E both encodings side by side, twice the channels.
        image_encoder: G, where there is one: "rrdb" (paper) or "monai_basic_unet", in the place of FC-HarDNet-70
            (variant four).
        num_rrdbs: blocks of the RRDB encoder.
        rrdb_channels: its width.
        rrdb_growth: channels that each convolution of its dense blocks adds.
        time_embedding: "sinusoid" through two layers that all blocks share, and one more in each block (release), or
            "table", one learned vector for each of the T times and two layers in each block (as the paper words it).
        time_dim: features of the sinusoidal embedding behind its layers; the table holds a quarter of it.
        dropout: probability of zeroing an activation inside a block.
        min_group_size: least channels of a group of the group norms, which have 32 groups where that leaves as many.
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
        num_train_timesteps: int = 100,
        channels: Sequence[int] = (128, 128, 128, 256, 256, 512, 512),
        num_res_blocks: int | Sequence[int] = 3,
        attention_levels: Sequence[int] = (4, 5),
        num_heads: int = 4,
        condition: str = "sum",
        image_encoder: str = "rrdb",
        num_rrdbs: int = 12,
        rrdb_channels: int = 64,
        rrdb_growth: int = 32,
        time_embedding: str = "sinusoid",
        time_dim: int = 512,
        dropout: float = 0.0,
        min_group_size: int = 4,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depths = level_depths(spatial_dims, channels, num_res_blocks, least=1, attention_levels=attention_levels)
        check_at_least(1, time_dim=time_dim, num_heads=num_heads, min_group_size=min_group_size)
        _check_condition(condition, mask_channels, len(channels))
        self.spatial_dims = spatial_dims
        self.image_channels = image_channels
        self.mask_channels = mask_channels
        self.condition = condition
        self.gradient_checkpointing = gradient_checkpointing
        self.size_factor = 2 ** (len(channels) - 1)
        width = channels[0]

        self.image_encoder: nn.Module = nn.Identity()
        if condition != "concat_image":
            self.image_encoder = make_image_encoder(
                image_encoder,
                spatial_dims,
                image_channels,
                width,
                num_rrdbs=num_rrdbs,
                rrdb_channels=rrdb_channels,
                rrdb_growth=rrdb_growth,
                gradient_checkpointing=gradient_checkpointing,
            )
        entering = mask_channels + (image_channels if condition == "concat_image" else 0)
        self.mask_encoder = make_conv(spatial_dims, entering, width, 3) if entering else None
        # What leaves the first level still has its width. Not part of `encode`, whose result keeps the image's grid.
        late = condition == "sum_after_down"
        self.condition_down = make_downsample(spatial_dims, width, width) if late else None
        self.time_embedding: nn.Module | None = None
        time_features, time_layers = 0, 1
        if mask_channels:
            self.time_embedding = make_time_embedding(time_embedding, num_train_timesteps, time_dim)
            time_features, time_layers = (time_dim, 1) if time_embedding == "sinusoid" else (time_dim // 4, 2)

        def block(in_channels: int, out_channels: int, *, attention: bool) -> _Block:
            residual = TimeResidualBlock(
                spatial_dims,
                in_channels,
                out_channels,
                time_dim=time_features,
                time_layers=time_layers,
                dropout=dropout,
                min_group_size=min_group_size,
            )
            return _Block(
                residual, AttentionBlock(out_channels, num_heads, min_group_size=min_group_size) if attention else None
            )

        if condition == "concat_features" and mask_channels:
            width *= 2
        skips = [width]  # channels of what the encoder hands to the decoder, the last one first taken
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        for level, (level_width, depth) in enumerate(zip(channels, depths, strict=True)):
            blocks = nn.ModuleList()
            for _ in range(depth):
                blocks.append(block(width, level_width, attention=level in attention_levels))
                width = level_width
                skips.append(width)
            self.encoder.append(blocks)
            if level < len(channels) - 1:
                self.down.append(make_downsample(spatial_dims, width, width))
                skips.append(width)
        self.bottom = nn.ModuleList([block(width, width, attention=True), block(width, width, attention=False)])
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()  # from the coarsest level up
        for level in reversed(range(len(channels))):
            blocks = nn.ModuleList()
            for _ in range(depths[level] + 1):
                blocks.append(block(width + skips.pop(), channels[level], attention=level in attention_levels))
                width = channels[level]
            self.decoder.append(blocks)
            if level:
                self.up.append(make_upsample(spatial_dims, width))
        self.head = nn.Sequential(
            make_group_norm(width, min_group_size=min_group_size),
            nn.SiLU(),
            zeroed(make_conv(spatial_dims, width, out_channels, 3)),
        )

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """G(I), the features (B, C_0, *S) of the image (B, image_channels, *S), or the image where there is no G.

        They lie on the grid of the image, so that a window can be cut out of both at the same place.
        """
        return self.image_encoder(image)

    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor,
        x0_prev: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from the noisy mask, see `Denoiser.forward`; `x0_prev` and `z` are not used."""
        size = x_t.shape[2:]
        padding = padding_to_multiple(size, self.size_factor)
        x_t, condition = pad_at_end(x_t, padding), pad_at_end(condition, padding)  # (B, C, *S'), (B, C_0, *S')
        time = None if self.time_embedding is None else self.time_embedding(t)  # (B, E)

        h = self._enter(x_t, condition)  # (B, C_0, *S'), twice the channels where features are concatenated
        skips = [h]
        for level, blocks in enumerate(self.encoder):
            for block in cast(nn.ModuleList, blocks):
                h = call(block, h, time, recompute=self.gradient_checkpointing)  # (B, C_l, *S'/2^l)
                skips.append(h)
            if level < len(self.down):
                h = self.down[level](h)  # (B, C_l, *S'/2^(l+1))
                if level == 0 and self.condition_down is not None:
                    h = h + self.condition_down(condition)  # (B, C_0, *S'/2)
                skips.append(h)
        for block in self.bottom:
            h = call(block, h, time, recompute=self.gradient_checkpointing)  # (B, C_L, *S'/2^L)
        for place, blocks in enumerate(self.decoder):
            for block in cast(nn.ModuleList, blocks):
                h = torch.cat([h, skips.pop()], dim=1)  # (B, both, *S'/2^l)
                h = call(block, h, time, recompute=self.gradient_checkpointing)  # (B, C_l, *S'/2^l)
            if place < len(self.up):
                h = self.up[place](h)  # (B, C_l, *S'/2^(l-1))
        return crop_to(self.head(h), size)  # (B, out, *S)

    def _enter(self, x_t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """What the encoder E starts from, (B, C_0, *S') or (B, 2 C_0, *S')."""
        if self.mask_encoder is None:
            return condition  # supervised
        if self.condition == "concat_image":
            return self.mask_encoder(torch.cat([condition, x_t], dim=1))
        mask = self.mask_encoder(x_t)
        if self.condition == "concat_features":
            return torch.cat([mask, condition], dim=1)
        return mask if self.condition == "sum_after_down" else mask + condition


class _Block(nn.Module):
    """A residual block and, where there is one, the attention behind it."""

    def __init__(self, residual: TimeResidualBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, x: torch.Tensor, time: torch.Tensor | None) -> torch.Tensor:
        h = self.residual(x, time)  # (B, D, *S)
        return h if self.attention is None else self.attention(h)  # (B, D, *S)


def _check_condition(condition: str, mask_channels: int, levels: int) -> None:
    if condition not in CONDITIONS:
        msg = f"condition {condition!r} does not exist; use one of {', '.join(CONDITIONS)}"
        raise SpecError(msg)
    if condition == "sum_after_down" and (not mask_channels or levels < 2):
        msg = (
            f"condition 'sum_after_down' was asked for with {mask_channels} mask channels and {levels} levels; it adds "
            "the image to a mask on the second level: give at least 1 mask channel and 2 levels"
        )
        raise SpecError(msg)
