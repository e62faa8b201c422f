"""MONAI's metadata, from an input to what was made of it."""

from __future__ import annotations

import torch
from monai.data import MetaTensor


def like_inputs(result: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """`result` with the metadata of `inputs`: without them MONAI's `Invertd` leaves it on the network's grid."""
    if not isinstance(inputs, MetaTensor):
        return result
    wrapped = MetaTensor(result)
    return wrapped.copy_meta_from(inputs)
