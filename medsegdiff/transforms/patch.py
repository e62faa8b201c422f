"""Random patches of large images, turned, scaled and shifted without blanks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.networks.layers import AffineTransform
from monai.transforms import MapTransform, RandAffineGrid, RandCropByPosNegLabel, RandomizableTransform

from medsegdiff.errors import SpecError


class RandAffinePatchd(RandomizableTransform, MapTransform):
    """Cuts out a patch that is rotated, scaled and shifted, straight from the image.

    A patch that is cut out first and then turned has blank corners, and a blank is no air once intensities are
    normalised to zero mean. Here the voxels come from around the patch; only beyond the image's own edge something is
    made up: images go on as they end, labels as background.

    The middle of the patch is a voxel of the foreground, or one of the background, moved so that the patch lies within
    the image where this is large enough. Images are interpolated, the label keeps its values.

    Args:
        keys: of images and label (C, *S) on one grid, 2-D or 3-D; they all get the same patch.
        label_key: the label map.
        spatial_size: of the patch.
        foreground_share: share of patches around a voxel of the foreground, 0 to 1.
        inside_key: of an image that a background voxel is above zero in; None allows any.
        rotate_range: largest angles in radians, one in 2-D, three in 3-D.
        scale_range: largest changes of the extent of what the patch shows, as shares, for each axis.
        translate_range: largest shifts in voxels, for each axis.
        prob: probability that the patch is rotated, scaled and shifted at all.

    Raises:
        SpecError: a share or probability outside 0 … 1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        label_key: str,
        spatial_size: Sequence[int],
        foreground_share: float = 0.5,
        inside_key: str | None = None,
        rotate_range: Sequence[float] | None = None,
        scale_range: Sequence[float] | None = None,
        translate_range: Sequence[float] | None = None,
        prob: float = 1.0,
    ) -> None:
        for name, share in {"foreground_share": foreground_share, "prob": prob}.items():
            if not 0 <= share <= 1:
                msg = f"{name} is {share}; allowed is a number from 0 to 1"
                raise SpecError(msg)
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key = label_key
        self.inside_key = inside_key
        self.spatial_size = tuple(spatial_size)
        self.crop = RandCropByPosNegLabel(
            self.spatial_size, pos=foreground_share, neg=1 - foreground_share, allow_smaller=True
        )
        self.affine = RandAffineGrid(
            rotate_range=rotate_range, translate_range=translate_range, scale_range=scale_range, lazy=True
        )
        self.matrix = torch.eye(len(self.spatial_size) + 1, dtype=torch.float64)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandAffinePatchd:
        super().set_random_state(seed, state)
        self.crop.set_random_state(state=self.R)
        self.affine.set_random_state(state=self.R)
        return self

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw where the patch lies: `matrix` takes its voxels to those of the images."""
        super().randomize(None)
        inside = None if self.inside_key is None else data[self.inside_key]
        self.crop.randomize(data[self.label_key], image=inside)
        (middle,) = self.crop.centers  # type: ignore[misc]  # drawn just now
        half = torch.tensor([(n - 1) / 2 for n in self.spatial_size], dtype=torch.float64)
        start = torch.tensor([m - n // 2 for m, n in zip(middle, self.spatial_size, strict=True)])
        self.matrix = torch.eye(len(half) + 1, dtype=torch.float64)
        if self._do_transform:
            self.affine(self.spatial_size)
            self.matrix = torch.as_tensor(self.affine.get_transformation_matrix()).clone()  # about the patch's centre
        self.matrix[:-1, -1] += start + half - self.matrix[:-1, :-1] @ half

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(d)
        for key in self.key_iterator(d):
            d[key] = self._cut_out(d[key], is_label=key == self.label_key)
        return d

    def _cut_out(self, image: torch.Tensor, *, is_label: bool) -> torch.Tensor:
        mode, beyond = ("nearest", "zeros") if is_label else ("bilinear", "border")
        sample = AffineTransform(self.spatial_size, mode=mode, padding_mode=beyond)
        volume = torch.as_tensor(image).as_subclass(torch.Tensor).float()  # (C, *S)
        patch = sample(volume[None], self.matrix.float())[0]  # (C, *spatial_size)
        if not isinstance(image, MetaTensor):
            return patch
        affine = image.affine @ to_affine_nd(len(image.affine) - 1, self.matrix).to(image.affine)
        return MetaTensor(patch, affine=affine, meta={k: v for k, v in image.meta.items() if k != "affine"})
