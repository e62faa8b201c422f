"""Random changes of the colours of a picture."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from medsegdiff.errors import DataError, SpecError


class RandColorJitterd(RandomizableTransform, MapTransform):
    """Changes brightness, contrast, saturation and hue of RGB pictures in random order, as SegDiff trains with.

    Factors are drawn from U[1 - s, 1 + s], the shift of the hue from U[-hue, hue] turns of the colour circle; the
    meaning of each is that of Pillow and torchvision (Amit et al. 2021, appendix: .4, .4, .4, .1 for MoNuSeg).

    Args:
        keys: of pictures (3, *S) whose values run from 0 to `value_range`; they all get the same change.
        brightness: s of the factor on all values, at least 0.
        contrast: s of the factor on the distance from the mean grey, at least 0.
        saturation: s of the factor on the distance from each pixel's grey, at least 0.
        hue: largest shift of the hue, 0 to 0.5.
        value_range: value of a full channel: 255 for 8-bit pictures.
        prob: probability of any change.
        allow_missing_keys: do nothing for a missing key.

    Raises:
        SpecError: a strength out of range.
        DataError: while transforming, a picture without three channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        value_range: float = 255.0,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if min(brightness, contrast, saturation) < 0 or not 0 <= hue <= 0.5 or value_range <= 0:
            msg = (
                f"got brightness={brightness}, contrast={contrast}, saturation={saturation}, hue={hue}, "
                f"value_range={value_range}; allowed are strengths of at least 0, a hue of 0 to 0.5, a positive range"
            )
            raise SpecError(msg)
        self.strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.hue = hue
        self.value_range = value_range
        self.changes: list[tuple[str, float]] = []

    def randomize(self, data: Any = None) -> None:
        """Draw the changes and their order."""
        super().randomize(None)
        drawn = {name: self.R.uniform(max(0.0, 1 - s), 1 + s) for name, s in self.strengths.items()}
        drawn["hue"] = self.R.uniform(-self.hue, self.hue)
        names = list(drawn)
        self.R.shuffle(names)
        self.changes = [(name, float(drawn[name])) for name in names]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize()
        if self._do_transform:
            for key in self.key_iterator(d):
                d[key] = self._jitter(d[key])
        return d

    def _jitter(self, picture: torch.Tensor | np.ndarray) -> torch.Tensor:
        from kornia import enhance

        if picture.shape[0] != 3:
            msg = f"got a picture of {picture.shape[0]} channels; colours are changed of RGB pictures: leave this out"
            raise DataError(msg)
        image = torch.as_tensor(picture).as_subclass(torch.Tensor).float() / self.value_range  # (3, *S)
        for name, amount in self.changes:
            if name == "brightness":
                image = enhance.adjust_brightness_accumulative(image, amount)
            elif name == "contrast":
                image = enhance.adjust_contrast_with_mean_subtraction(image, amount)
            elif name == "saturation":
                image = enhance.adjust_saturation_with_gray_subtraction(image, amount)
            else:
                image = enhance.adjust_hue(image, amount * 2 * math.pi)
        image = image.clamp(0, 1) * self.value_range
        return MetaTensor(image).copy_meta_from(picture) if isinstance(picture, MetaTensor) else image
