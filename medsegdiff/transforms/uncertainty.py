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


class RunningEntropy:
    """The same, class by class: in the memory of one map, whatever the number of classes.

    Args:
        num_classes: K, at least 2.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._total: torch.Tensor | None = None

    def add(self, probability: torch.Tensor) -> None:
        """Take the probability of the next class; all have one shape."""
        part = torch.special.entr(probability)
        self._total = part if self._total is None else self._total.add_(part)

    def result(self) -> torch.Tensor:
        """The entropy of what was taken, from 0 to 1; nothing can be added after."""
        if self._total is None:
            msg = "no class was added"
            raise RuntimeError(msg)
        return self._total.div_(math.log(self.num_classes)).clamp_(0, 1)


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
