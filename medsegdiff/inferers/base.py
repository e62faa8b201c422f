"""What every inferer here offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from medsegdiff.data.metadata import like_inputs
from medsegdiff.networks.segmenter import Segmentation, StepCallback


class Sampling(ABC):
    """An inferer that gives more than a mean: what `sampling_iteration` and the predictor need.

    Called as any inferer of MONAI it gives what `SimpleInferer` gives; `sample` gives the variance over draws too.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Segment a batch.

        Args:
            inputs: images (B, image channels, *S).
            network: a segmenter of any kind, also wrapped for several processes.
            *args: none are known.
            **kwargs: of `sample`.

        Returns:
            Class probabilities (B, K, *S), with the metadata of `inputs` where those have any.
        """
        return like_inputs(self.sample(inputs, network, *args, **kwargs).probabilities, inputs)

    @abstractmethod
    def sample(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        *,
        cases: Sequence[str] | None = None,
        callback: StepCallback | None = None,
    ) -> Segmentation:
        """Segment a batch (B, image channels, *S)."""
