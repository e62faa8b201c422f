"""What every denoiser offers to the segmenter."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Denoiser(nn.Module, ABC):
    """The network of a paper, in two parts: what depends on the image alone, and the rest.

    Attributes:
        spatial_dims: 2 or 3.
        image_channels: channels of the image.
        latent_dim: features of the latent z that `forward` needs; 0 for networks without one.
    """

    spatial_dims: int
    image_channels: int
    latent_dim: int = 0

    @abstractmethod
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """All that depends on neither x_t nor t, computed once an image (B, image_channels, *S); first axis B."""

    @abstractmethod
    def forward(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor,
        x0_prev: torch.Tensor | None = None,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict from the noisy mask.

        Args:
            x_t: noisy mask (B, C, *S); (B, 0, *S) for a supervised network.
            t: 0-based time steps (B,).
            condition: what `encode` returned.
            x0_prev: previous prediction of x_0, (B, C, *S) in [-1, 1], for self-conditioning; others ignore it.
            z: latent (B, features); networks without one ignore it.

        Returns:
            The output (B, out_channels, *S); the segmenter's `prediction` says what it means.
        """
