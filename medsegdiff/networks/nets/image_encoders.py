"""Image encoders: features of the image at its full resolution, computed once for all steps and draws."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.errors import SpecError, check_at_least
from medsegdiff.networks.blocks.checkpointing import call
from medsegdiff.networks.blocks.layers import make_conv, trained_right
from medsegdiff.networks.blocks.padding import crop_to, pad_at_end, padding_to_multiple
from medsegdiff.networks.blocks.rrdb import RRDB, SLOPE

IMAGE_ENCODERS = ("rrdb", "monai_basic_unet")


class RRDBEncoder(nn.Module):
    """SegDiff's image encoder G: a trunk of RRDBs at full resolution, without norm (Amit et al. 2021, section 4.3).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: C, channels of the features.
        num_rrdbs: blocks of the trunk (paper: 12 on MoNuSeg, 6 on Vaihingen, 15 on Cityscapes).
        channels: features of the trunk (release: 64).
        growth: see `DenseBlock` (release: 32).
        gradient_checkpointing: recompute activations of every block in the backward pass, to save memory.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        num_rrdbs: int = 12,
        channels: int = 64,
        growth: int = 32,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.first = make_conv(spatial_dims, in_channels, channels, 3)
        self.trunk = nn.ModuleList(RRDB(spatial_dims, channels, growth) for _ in range(num_rrdbs))
        self.trunk_end = make_conv(spatial_dims, channels, channels, 3)
        self.full_resolution = make_conv(spatial_dims, channels, channels, 3)
        self.last = make_conv(spatial_dims, channels, out_channels, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (B, image channels, *S) of any size to features (B, C, *S)."""
        entry = self.first(image)  # (B, W, *S)
        h = entry
        for block in self.trunk:
            h = call(block, h, recompute=self.gradient_checkpointing)  # (B, W, *S)
        h = entry + self.trunk_end(h)  # (B, W, *S)
        return self.last(F.leaky_relu(self.full_resolution(h), SLOPE, inplace=True))  # (B, C, *S)


class BasicUNetEncoder(nn.Module):
    """MONAI's `BasicUNet` in the place of the RRDBs: an encoder that has a decoder and skip connections of its own.

    The paper's fourth variant puts FC-HarDNet-70, a segmentation network, in this place; MONAI's plain U-Net stands
    in for it. Images are padded with zeros to a multiple of 16, and features cropped again.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: C, channels of the features.
        gradient_checkpointing: recompute all activations in the backward pass, to save memory.
    """

    FACTOR = 16  # four halvings

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, gradient_checkpointing: bool = False
    ) -> None:
        from monai.networks.nets import BasicUNet

        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.unet = trained_right(
            BasicUNet(spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map images (B, image channels, *S) of any size to features (B, C, *S)."""
        size = image.shape[2:]
        # Twice the factor at least, so that the instance norm at the bottom has more than one voxel to normalise.
        padded = pad_at_end(image, padding_to_multiple(size, self.FACTOR, minimum=2 * self.FACTOR))
        return crop_to(call(self.unet, padded, recompute=self.gradient_checkpointing), size)  # (B, C, *S)


def make_image_encoder(
    name: str,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    num_rrdbs: int,
    rrdb_channels: int,
    rrdb_growth: int,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """The image encoder "rrdb" or "monai_basic_unet", to which the settings of the RRDBs mean nothing.

    Raises:
        SpecError: no such encoder, or one without RRDBs.
    """
    if name not in IMAGE_ENCODERS:
        msg = f"image_encoder {name!r} does not exist; use one of {', '.join(IMAGE_ENCODERS)}"
        raise SpecError(msg)
    if name == "monai_basic_unet":
        return BasicUNetEncoder(spatial_dims, in_channels, out_channels, gradient_checkpointing=gradient_checkpointing)
    check_at_least(1, num_rrdbs=num_rrdbs, rrdb_channels=rrdb_channels, rrdb_growth=rrdb_growth)
    return RRDBEncoder(
        spatial_dims,
        in_channels,
        out_channels,
        num_rrdbs=num_rrdbs,
        channels=rrdb_channels,
        growth=rrdb_growth,
        gradient_checkpointing=gradient_checkpointing,
    )
