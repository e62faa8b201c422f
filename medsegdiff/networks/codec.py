"""Between label maps and the masks x_0 that diffusion works on."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from medsegdiff.errors import DataError, SpecError


class MaskCodec(ABC):
    """Turns a label map into x_0 in {-1, 1} and a prediction of x_0 into class probabilities.

    Attributes:
        num_classes: K, background included.
        channels: C, the channels of x_0.
    """

    num_classes: int
    channels: int

    @abstractmethod
    def encode(self, label: torch.Tensor) -> torch.Tensor:
        """Turn a label map (B, 1, *S) with values 0..K-1 into x_0 (B, C, *S), float32 in {-1, 1}.

        Raises:
            DataError: a value outside 0..K-1 or between two classes, or more than one channel.
        """

    @abstractmethod
    def probabilities(self, x_0: torch.Tensor) -> torch.Tensor:
        """Turn a predicted x_0 (B, C, *S) into probabilities (B, K, *S) that sum to one."""


class OneHotCodec(MaskCodec):
    """One channel per class, background included: 1 where the class is, -1 elsewhere (Fu et al. 2023, section 3.2)."""

    def __init__(self, num_classes: int) -> None:
        _check_num_classes(num_classes)
        self.num_classes = num_classes
        self.channels = num_classes

    def encode(self, label: torch.Tensor) -> torch.Tensor:
        index = _as_index(label, self.num_classes)  # (B, 1, *S)
        x_0 = torch.full((len(index), self.channels, *index.shape[2:]), -1.0, device=index.device)
        return x_0.scatter_(1, index, 1.0)

    def probabilities(self, x_0: torch.Tensor) -> torch.Tensor:
        # A softmax output already sums to one; a regressed x_0 (tanh, from the noise) is clipped and scaled to it.
        mass = ((x_0.float() + 1) / 2).clamp(1e-6, 1.0)  # (B, K, *S)
        return mass / mass.sum(dim=1, keepdim=True)


class SingleChannelCodec(MaskCodec):
    """One channel for two classes: 1 in the foreground, -1 in the background (Amit et al. 2021)."""

    num_classes = 2
    channels = 1

    def encode(self, label: torch.Tensor) -> torch.Tensor:
        return _as_index(label, self.num_classes).float() * 2 - 1

    def probabilities(self, x_0: torch.Tensor) -> torch.Tensor:
        foreground = ((x_0.float() + 1) / 2).clamp(0.0, 1.0)  # (B, 1, *S)
        return torch.cat([1 - foreground, foreground], dim=1)  # (B, 2, *S)


def build_codec(name: str, num_classes: int) -> MaskCodec:
    """The codec "one_hot" (any number of classes), "single_channel" (two), or "auto", the smaller one that fits.

    Raises:
        SpecError: no such codec, or a number of classes that it cannot hold.
    """
    if name == "auto":
        name = "single_channel" if num_classes == 2 else "one_hot"
    if name == "one_hot":
        return OneHotCodec(num_classes)
    if name == "single_channel":
        if num_classes != 2:
            msg = f"the single_channel codec holds 2 classes, got {num_classes}; use one_hot"
            raise SpecError(msg)
        return SingleChannelCodec()
    msg = f"codec {name!r} does not exist; use one of auto, one_hot, single_channel"
    raise SpecError(msg)


def _check_num_classes(num_classes: int) -> None:
    if num_classes < 2:
        msg = f"a segmentation has at least 2 classes, background included, got {num_classes}"
        raise SpecError(msg)


def _as_index(label: torch.Tensor, num_classes: int) -> torch.Tensor:
    if label.shape[1] != 1:
        msg = f"got labels of shape {tuple(label.shape)}; allowed is one channel that holds the number of the class"
        raise DataError(msg)
    index = label.long()
    if label.is_floating_point() and not torch.equal(index.to(label.dtype), label):
        msg = "label values are not whole numbers; resample and deform labels with mode 'nearest'"
        raise DataError(msg)
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= num_classes:
        msg = (
            f"label values run from {low} to {high}, allowed are 0 to {num_classes - 1}; "
            "map other values to classes before training"
        )
        raise DataError(msg)
    return index
