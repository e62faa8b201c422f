"""Resampling by two through a short low-pass filter, which keeps coarse features from aliasing."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from medsegdiff.networks.blocks.glorot import glorot
from medsegdiff.networks.blocks.layers import make_conv

TAPS = (1.0, 3.0, 3.0, 1.0)


class _FIR(nn.Module):
    """Holds the outer product of `TAPS`, normalised to the sum `gain`."""

    def __init__(self, spatial_dims: int, *, gain: float = 1.0) -> None:
        super().__init__()
        kernel = torch.ones(())
        for _ in range(spatial_dims):
            kernel = kernel[..., None] * torch.tensor(TAPS)
        kernel = kernel * (gain / sum(TAPS) ** spatial_dims)
        self.kernel: torch.Tensor
        # Not persistent: a constant of the architecture.
        self.register_buffer("kernel", kernel[None, None], persistent=False)  # (1, 1, *4)

    def weight(self, x: torch.Tensor) -> torch.Tensor:
        """One kernel for each channel of x (B, C, *S), in its dtype: (C, 1, *4)."""
        return self.kernel.to(x.dtype).repeat(x.shape[1], *(1,) * (self.kernel.ndim - 1))


class FIRDownsample(_FIR):
    """Filters with [1, 3, 3, 1] / 8 along every axis and keeps every second value (Karras et al. 2019).

    Zeros lie around the input; away from them a constant stays what it is. Odd sizes are rounded up.

    Args:
        spatial_dims: 2 or 3.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *S) to (B, C, *S/2)."""
        odd = [n % 2 for n in x.shape[2:]]
        if any(odd):
            x = F.pad(x, [amount for n in reversed(odd) for amount in (0, n)])  # (B, C, *S'), even
        conv = F.conv2d if x.ndim == 4 else F.conv3d
        return conv(x, self.weight(x), stride=2, padding=1, groups=x.shape[1])  # (B, C, *S'/2)


class FIRUpsample(_FIR):
    """Puts zeros between the values and filters with [1, 3, 3, 1] / 4 along every axis (Karras et al. 2019).

    Away from the borders this is linear interpolation; a constant stays what it is.

    Args:
        spatial_dims: 2 or 3.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__(spatial_dims, gain=2.0**spatial_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *S) to (B, C, *2S)."""
        conv = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
        return conv(x, self.weight(x), stride=2, padding=1, groups=x.shape[1])  # (B, C, *2S)


class FIRStridedConv(_FIR):
    """The low-pass filter in front of a learned convolution of kernel three and stride two.

    Args:
        spatial_dims: 2 or 3.
        in_channels: C.
        out_channels: D.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__(spatial_dims)
        self.conv = glorot(make_conv(spatial_dims, in_channels, out_channels, 3, stride=2, padding=0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *S), of even sizes, to (B, D, *S/2)."""
        conv = F.conv2d if x.ndim == 4 else F.conv3d
        h = conv(x, self.weight(x), padding=2, groups=x.shape[1])  # (B, C, *(S + 1))
        return self.conv(h)  # (B, D, *S/2)
