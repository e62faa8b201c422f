"""Uncertainty maps from class probabilities."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep


def entropy(probabilities: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Shannon entropy of class probabilities divided by log K: 0 where one class is certain, 1 where all are equal.

    Args:
        probabilities: non-negative, summing to one along `dim`, which has the K >= 2 classes.
        dim: axis of the classes; it is kept, with length one.
    """
    total = torch.special.entr(probabilities).sum(dim=dim, keepdim=True)
    return (total / math.log(probabilities.shape[dim])).clamp(0, 1)


class Uncertaintyd(MapTransform):
    """Adds the entropy map (1, *S), in [0, 1], of class probabilities (K, *S) to a dictionary.

    Args:
        keys: of the probabilities.
        output_keys: where to put the maps, one a key.
        allow_missing_keys: do nothing for a missing key.
    """

    def __init__(
        self, keys: KeysCollection, output_keys: KeysCollection = "entropy", *, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_keys = ensure_tuple_rep(output_keys, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key, output_key in self.key_iterator(d, self.output_keys):
            probabilities = d[key]
            result = entropy(torch.as_tensor(probabilities).as_subclass(torch.Tensor))
            if isinstance(probabilities, MetaTensor):
                result = MetaTensor(result).copy_meta_from(probabilities)
            d[output_key] = result
        return d
