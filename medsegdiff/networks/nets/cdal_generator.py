"""The generator of cDAL, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from medsegdiff.errors import SpecError, check_at_least
from medsegdiff.networks.blocks.big_residual import BigResidualBlock
from medsegdiff.networks.blocks.checkpointing import call
from medsegdiff.networks.blocks.fir import FIRStridedConv
from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.group_norm import make_group_norm
from medsegdiff.networks.blocks.latent_mapping import LatentMapping
from medsegdiff.networks.blocks.layers import make_conv
from medsegdiff.networks.blocks.levels import level_depths
from medsegdiff.networks.blocks.light_encoder import LightEncoder
from medsegdiff.networks.blocks.padding import crop_to, pad_at_end, padding_to_multiple
from medsegdiff.networks.blocks.single_head_attention import SingleHeadAttention
from medsegdiff.networks.blocks.step_embedding import StepEmbedding
from medsegdiff.networks.blocks.zero_init import zeroed
from medsegdiff.networks.nets.denoiser import Denoiser


class CDALGenerator(Denoiser):
    """x_theta(x_t, t, z, I): predicts x_0 under a random latent (Hejrati et al. 2024, section 2.3).

    A U-Net of the NCSN++ kind (Song et al. 2021; with a latent, Xiao et al. 2022) over the sum of one convolution of
    x_t and the features of a light image encoder. The latent z scales and shifts every norm of a residual block, the
    time is added in every one. x_t comes in once more at every coarser level, through filtered strided convolutions
    ("progressive input"). The output is meant to go through a tanh, see `TanhPrediction`; untrained, it is zero. The
    paper gives no sizes: the defaults are its release's for MoNuSeg. Inputs of any size are padded with zeros inside
    (the mask and the features of the image) and the output is cropped again.

    Args:
        spatial_dims: 2 or 3; the paper has 2-D only and names 3-D as future work.
        image_channels: channels of the image.
        mask_channels: channels of x_t; 0 makes a supervised network, without time and latent.
        out_channels: channels of the output, as many as x_0 has.
        channels: features of each level, from full resolution down; the image encoder gives as many as the first.
        num_res_blocks: blocks of each encoder level, at least 1; a decoder level has one more. One number serves all.
        attention_levels: levels, 0 being full resolution, of which every encoder block is followed by attention, and
            the last decoder block. The two blocks at the bottom have attention between them in any case.
        encoder_blocks: residual blocks of the image encoder.
        latent: False for the paper's ablation without z.
        latent_dim: features of z.
        style_dim: features that z is mapped to.
        mapping_layers: layers of that mapping behind its first.
        mask_gain: factor on the initial weights by which x_t enters, at every level. With 1 (release) a fresh network
            sees more noise than image; with 0 it starts blind to x_t, and learns from the image first.
        dropout: probability of zeroing an activation inside a block.
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
        channels: Sequence[int] = (64, 64, 64, 128, 128, 256, 256),
        num_res_blocks: int | Sequence[int] = 2,
        attention_levels: Sequence[int] = (4, 5),
        encoder_blocks: int = 5,
        latent: bool = True,
        latent_dim: int = 100,
        style_dim: int = 256,
        mapping_layers: int = 3,
        mask_gain: float = 1.0,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depths = level_depths(spatial_dims, channels, num_res_blocks, least=1, attention_levels=attention_levels)
        check_at_least(1, latent_dim=latent_dim, style_dim=style_dim)
        check_at_least(0, encoder_blocks=encoder_blocks, mapping_layers=mapping_layers)
        self.spatial_dims = spatial_dims
        self.image_channels = image_channels
        self.mask_channels = mask_channels
        self.gradient_checkpointing = gradient_checkpointing
        self.size_factor = 2 ** (len(channels) - 1)
        self.latent_dim = latent_dim if latent and mask_channels else 0
        width, self.activation = channels[0], nn.SiLU()
        time_dim = 4 * width if mask_channels else 0
        style_dim = style_dim if self.latent_dim else 0

        self.image_encoder = LightEncoder(
            spatial_dims,
            image_channels,
            width,
            num_blocks=encoder_blocks,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.mask_encoder = glorot(make_conv(spatial_dims, mask_channels, width, 3)) if mask_channels else None
        self.step_embedding = StepEmbedding(width, time_dim, nn.SiLU()) if time_dim else None
        self.mapping = LatentMapping(self.latent_dim, style_dim, layers=mapping_layers) if style_dim else None

        def block(in_channels: int, out_channels: int, resampling: str = "none") -> BigResidualBlock:
            return BigResidualBlock(
                spatial_dims,
                in_channels,
                out_channels,
                time_dim=time_dim,
                style_dim=style_dim,
                resampling=resampling,
                dropout=dropout,
            )

        def attention_at(level: int) -> nn.Module:
            return SingleHeadAttention(channels[level]) if level in attention_levels else nn.Identity()

        skips = [width]  # channels of what the encoder hands to the decoder, the last one first taken
        self.encoder, self.attention = nn.ModuleList(), nn.ModuleList()
        for level, (level_width, depth) in enumerate(zip(channels, depths, strict=True)):
            self.encoder.append(nn.ModuleList(block(n, level_width) for n in (width, *[level_width] * (depth - 1))))
            self.attention.append(nn.ModuleList(attention_at(level) for _ in range(depth)))
            width = level_width
            # The block that halves hands on as well, as a skip of the next level.
            skips += [width] * (depth + (level < len(channels) - 1))
        self.down = nn.ModuleList(block(n, n, "down") for n in channels[:-1])
        entering = pairwise([mask_channels, *channels[:-1]]) if mask_channels else ()
        self.pyramid = nn.ModuleList(FIRStridedConv(spatial_dims, n, wide) for n, wide in entering)
        for name, parameter in self.named_parameters():
            if name.startswith(("mask_encoder", "pyramid")) and name.endswith("weight"):
                parameter.data *= mask_gain
        self.bottom = nn.ModuleList([block(width, width), block(width, width)])
        self.bottom_attention = SingleHeadAttention(width)
        self.decoder, self.decoder_attention, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(channels))):  # from the coarsest level up
            blocks = nn.ModuleList()
            for _ in range(depths[level] + 1):
                blocks.append(block(width + skips.pop(), channels[level]))
                width = channels[level]
            self.decoder.append(blocks)
            self.decoder_attention.append(attention_at(level))
            if level:
                self.up.append(block(width, width, "up"))
        norm = make_group_norm(width)
        norm.eps = 1e-6
        self.head = nn.Sequential(norm, nn.SiLU(), zeroed(make_conv(spatial_dims, width, out_channels, 3)))

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """The features (B, C_0, *S) of the image (B, image_channels, *S).

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
        """Predict from the noisy mask, see `Denoiser.forward`; `x0_prev` is not used.

        Raises:
            SpecError: no latent for a network that has one, or of another number of features.
        """
        size = x_t.shape[2:]
        padding = padding_to_multiple(size, self.size_factor)
        x_t, condition = pad_at_end(x_t, padding), pad_at_end(condition, padding)  # (B, C, *S'), (B, C_0, *S')
        time = None if self.step_embedding is None else self.activation(self.step_embedding(t))  # (B, E)
        style = None if self.mapping is None else self.mapping(self._checked(z))  # (B, F)

        h = condition if self.mask_encoder is None else self.mask_encoder(x_t) + condition  # (B, C_0, *S')
        skips, progressive = [h], x_t
        for level, (blocks, attentions) in enumerate(zip(self.encoder, self.attention, strict=True)):
            for block, attention in zip(cast(nn.ModuleList, blocks), cast(nn.ModuleList, attentions), strict=True):
                h = attention(self._run(block, h, time, style))  # (B, C_l, *S'/2^l)
                skips.append(h)
            if level < len(self.down):
                h = self._run(self.down[level], h, time, style)  # (B, C_l, *S'/2^(l+1))
                if self.mask_channels:
                    h = progressive = (h + self.pyramid[level](progressive)) * 0.5**0.5  # (B, C_l, *S'/2^(l+1))
                skips.append(h)
        before, after = self.bottom
        h = self.bottom_attention(self._run(before, h, time, style))  # (B, C_L, *S'/2^L)
        h = self._run(after, h, time, style)  # (B, C_L, *S'/2^L)
        for place, (blocks, attention) in enumerate(zip(self.decoder, self.decoder_attention, strict=True)):
            for block in cast(nn.ModuleList, blocks):
                h = torch.cat([h, skips.pop()], dim=1)  # (B, both, *S'/2^l)
                h = self._run(block, h, time, style)  # (B, C_l, *S'/2^l)
            h = attention(h)  # (B, C_l, *S'/2^l)
            if place < len(self.up):
                h = self._run(self.up[place], h, time, style)  # (B, C_l, *S'/2^(l-1))
        return crop_to(self.head(h), size)  # (B, out, *S)

    def _run(
        self, block: nn.Module, h: torch.Tensor, time: torch.Tensor | None, style: torch.Tensor | None
    ) -> torch.Tensor:
        return call(block, h, time, style, recompute=self.gradient_checkpointing)

    def _checked(self, z: torch.Tensor | None) -> torch.Tensor:
        if z is None or z.shape[-1] != self.latent_dim:
            got = "none" if z is None else f"one of {z.shape[-1]}"
            msg = f"this network takes a latent of {self.latent_dim} features at every call, got {got}; give z"
            raise SpecError(msg)
        return z
