"""Segmentations back on the grid of their image, in memory that does not grow with the number of classes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import ensure_tuple

from medsegdiff.errors import DataError, SpecError
from medsegdiff.transforms.uncertainty import RunningEntropy
from medsegdiff.transforms.way_back import WayBack

PROBABILITIES = "probabilities"
ENTROPY = "entropy"
DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Restored(MapTransform):
    """Turns class probabilities on the network's grid into a label map on the grid of the image.

    Does what `Invertd` (with `nearest_interp=False`), `Uncertaintyd` and an arg-max do one after the other, but takes
    one class at a time: label map and entropy grow with it, and its probabilities go. Where the preprocessing turns,
    flips, pads, crops, resizes or resamples along the axes, beside the label map at most four float32 maps of the
    image's grid and one of the network's are held at once, however many classes there are; see `WayBack` for other
    ways of resampling. Where two classes are equally probable, and where the preprocessing cropped the image away,
    the first class wins.

    Args:
        keys: of the class probabilities (K, *S), a single key; the label map (1, *S_image) takes their place, uint8,
            or int32 for more than 256 classes.
        transform: the preprocessing of the image.
        orig_keys: of the image that was preprocessed, a single key.
        maps: keys of further maps (C, *S) on the network's grid to bring back, such as the variance; those that an
            item does not have are left out.
        entropy: also give the entropy (1, *S_image) of the probabilities, from 0 to 1, as "entropy".
        probabilities: also give the probabilities (K, *S_image), as "probabilities": K maps at once.
        dtype: of those, "float32" or, off by at most 0.00025, "float16".
        device: where to work and to leave the results; None for where the probabilities are.
        allow_missing_keys: do nothing where there are no probabilities.

    Raises:
        SpecError: several keys, another dtype, or a preprocessing that cannot be inverted.
        DataError: while transforming, probabilities that are not on the grid of the preprocessed image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: InvertibleTransform,
        orig_keys: KeysCollection = "image",
        *,
        maps: KeysCollection = (),
        entropy: bool = False,
        probabilities: bool = False,
        dtype: str = "float32",
        device: str | torch.device | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_keys = ensure_tuple(orig_keys)
        if len(self.keys) != 1 or len(self.orig_keys) != 1:
            msg = f"got the keys {self.keys} and orig_keys {self.orig_keys}; give one of each: a segmentation, an image"
            raise SpecError(msg)
        if dtype not in DTYPES:
            msg = f"dtype {dtype!r} is none for probabilities; use one of {', '.join(DTYPES)}"
            raise SpecError(msg)
        if not isinstance(transform, InvertibleTransform):
            msg = f"a {type(transform).__name__} cannot be undone; give the preprocessing, an invertible transform"
            raise SpecError(msg)
        self.transform = transform
        self.maps = ensure_tuple(maps)
        self.entropy = entropy
        self.probabilities = probabilities
        self.dtype = DTYPES[dtype]
        self.device = device

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            way_back = self._way_back(d)
            d |= self._restore(key, RestoredClasses(d.pop(key), way_back, device=self.device))
            for name in self.maps:
                if name in d:
                    d[name] = torch.cat(list(RestoredClasses(d[name], way_back, device=self.device)))
        return d

    def classes(self, data: Mapping[Hashable, Any]) -> RestoredClasses:
        """The probabilities of an item, on the grid of its image, each restored when it is read."""
        return RestoredClasses(data[self.keys[0]], self._way_back(data), device=self.device)

    def _way_back(self, data: Mapping[Hashable, Any]) -> WayBack:
        [key] = self.orig_keys
        return WayBack(self.transform, data[key], key=key)

    def _restore(self, key: Hashable, classes: RestoredClasses) -> dict[Hashable, MetaTensor]:
        label = RunningArgMax(len(classes))
        entropy = RunningEntropy(len(classes)) if self.entropy else None
        kept: torch.Tensor | None = None
        for k in range(len(classes)):
            restored = classes[k]
            meta, channel = _meta_of(restored), restored.as_subclass(torch.Tensor)  # (1, *S_image)
            del restored
            label.add(channel)
            if entropy is not None:
                entropy.add(channel)
            if self.probabilities:
                kept = channel.new_empty((len(classes), *channel.shape[1:]), dtype=self.dtype) if kept is None else kept
                kept[k] = channel[0]
            del channel  # before the next is made
        results = {key: label.result()}
        if entropy is not None:
            results[ENTROPY] = entropy.result()
        if kept is not None:
            results[PROBABILITIES] = kept
        return {name: MetaTensor(value).copy_meta_from(meta) for name, value in results.items()}


class RestoredClasses(Sequence[MetaTensor]):
    """The channels of a result on the grid of its image, each brought back when it is read and not kept.

    Args:
        channels: (K, *S) on the network's grid.
        way_back: of the image.
        device: where to bring them back; None for where they are.
    """

    def __init__(self, channels: torch.Tensor, way_back: WayBack, *, device: str | torch.device | None = None) -> None:
        if tuple(channels.shape[1:]) != way_back.grid:
            msg = (
                f"got a result of shape {tuple(channels.shape)} for an image of {way_back.grid} voxels after its "
                "preprocessing; give one channel or more on that grid"
            )
            raise DataError(msg)
        self.channels = channels.detach().as_subclass(torch.Tensor)
        self.way_back = way_back
        self.device = device

    def __len__(self) -> int:
        return len(self.channels)

    def __getitem__(self, k: int) -> MetaTensor:  # type: ignore[override]
        """Channel k, (1, *S_image)."""
        return self.way_back(self.channels[k].to(self.device or self.channels.device))

    def __iter__(self) -> Iterator[MetaTensor]:
        return (self[k] for k in range(len(self)))


class RunningArgMax:
    """Which of the maps that come one after the other is the largest, in the memory of one and of the answer.

    Args:
        count: how many will come.
    """

    def __init__(self, count: int) -> None:
        self._dtype = torch.uint8 if count <= 256 else torch.int32
        self._index = torch.empty(0)
        self._largest: torch.Tensor | None = None
        self._next = 0

    def add(self, value: torch.Tensor) -> None:
        """Take the next map; all have one shape."""
        if self._largest is None:
            self._index, self._largest = torch.zeros_like(value, dtype=self._dtype), value.clone()
        else:
            self._index.masked_fill_(value > self._largest, self._next)
            torch.maximum(self._largest, value, out=self._largest)
        self._next += 1

    def result(self) -> torch.Tensor:
        """The index of the largest; of the first, where several are as large."""
        return self._index


def _meta_of(tensor: MetaTensor) -> MetaTensor:
    """Its metadata without its values."""
    return MetaTensor(torch.empty(0)).copy_meta_from(tensor)
