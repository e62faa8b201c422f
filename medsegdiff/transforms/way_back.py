"""From the network's grid back to the grid of an image, one channel at a time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import deepcopy
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import (
    Compose,
    InvertibleTransform,
    MapTransform,
    ResampleToMatchd,
    Spacingd,
    SpatialResampled,
)
from monai.transforms.utils import allow_missing_keys_mode
from monai.utils import TraceKeys

from medsegdiff.errors import DataError, SpecError

_RESAMPLING = (Spacingd, SpatialResampled, ResampleToMatchd)
_VOXELS_AT_ONCE = 2**16  # what fits into a cache
_OFF_AXIS = 1e-3  # voxels: what a rotation may move a position by and still count as rounding


class WayBack:
    """Undoes what a preprocessing did to one image, for channels on the network's grid.

    Gives what MONAI's `Invertd` gives with `nearest_interp=False`, and takes any preprocessing that it takes. Linear
    resampling along the axes, which `Spacingd` does, needs the memory of two channels here, and a small part of the
    time: MONAI's grid of coordinates makes it that of fourteen. Other resampling is left to MONAI.

    Args:
        transform: the preprocessing, invertible.
        image: what it made of the image, with the record of what was done.
        key: of the image in the preprocessing.

    Attributes:
        grid: size (*S) of the network's grid.

    Raises:
        SpecError: a preprocessing that cannot be inverted.
        DataError: an image without a record.
    """

    def __init__(self, transform: InvertibleTransform, image: MetaTensor, *, key: Hashable = "image") -> None:
        if not isinstance(transform, InvertibleTransform):
            msg = f"got a {type(transform).__name__} to undo; give an invertible transform of MONAI, such as a Compose"
            raise SpecError(msg)
        if not isinstance(image, MetaTensor):
            msg = f"{key!r} is a plain {type(image).__name__}, without a record of what was done; keep it a MetaTensor"
            raise DataError(msg)
        self.key = key
        self.grid = tuple(image.shape[1:])
        self._transform: Any = transform
        self._inverse = _with_separable_resampling(transform)
        self._operations = deepcopy(image.applied_operations)
        self._meta = deepcopy(image.meta)

    def __call__(self, channel: torch.Tensor) -> MetaTensor:
        """Bring one channel (*S) back to the grid of the image, (1, *S_image), with the affine of that grid.

        Raises:
            DataError: a channel on another grid than the network's.
        """
        if tuple(channel.shape) != self.grid:
            msg = f"got a channel of {tuple(channel.shape)} voxels to bring back; the image has {self.grid} there"
            raise DataError(msg)
        values = MetaTensor(channel.detach().as_subclass(torch.Tensor)[None])
        values.applied_operations = deepcopy(self._operations)
        values.meta = deepcopy(self._meta)
        with allow_missing_keys_mode(self._transform):
            restored = self._inverse.inverse({self.key: values})[self.key]
        return restored if isinstance(restored, MetaTensor) else MetaTensor(restored, meta=deepcopy(self._meta))


class _SeparableResampling(MapTransform, InvertibleTransform):
    """A resampling whose inverse goes axis by axis where that gives the same."""

    def __init__(self, resampling: Any) -> None:
        super().__init__(resampling.keys)
        self.resampling = resampling

    def __call__(self, data: Any) -> Any:
        return self.resampling(data)

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.resampling.key_iterator(d):
            restored = _undo_along_axes(d[key])
            d[key] = self.resampling.inverse({key: d[key]})[key] if restored is None else restored
        return d


def _with_separable_resampling(transform: Any) -> Any:
    if type(transform) is not Compose:
        return transform
    flat = transform.flatten()
    flat.transforms = tuple(_SeparableResampling(t) if isinstance(t, _RESAMPLING) else t for t in flat.transforms)
    return flat


def _undo_along_axes(channel: MetaTensor) -> MetaTensor | None:
    """Undo the last recorded operation where it was linear resampling along the axes; None where it was not."""
    operation = channel.applied_operations[-1] if channel.applied_operations else {}
    settings = operation.get(TraceKeys.EXTRA_INFO) or {}
    if (settings.get("mode"), settings.get("padding_mode")) != ("bilinear", "border") or "src_affine" not in settings:
        return None
    axes = channel.ndim - 1
    size = [int(n) for n in operation[TraceKeys.ORIG_SIZE]]
    here, there = (to_affine_nd(axes, affine.double().cpu()) for affine in (channel.affine, settings["src_affine"]))
    position = torch.linalg.solve(here, there)  # from an index there to a position here
    scale = position[:axes, :axes].diagonal()
    off_axis = (position[:axes, :axes] - scale.diag()).abs() @ torch.tensor(size, dtype=torch.float64)
    if off_axis.max() > _OFF_AXIS:
        return None
    values = channel.as_subclass(torch.Tensor)[0].float()  # (*S)
    for axis in reversed(range(axes)):  # gathering is slowest along the last axis: do it while there are few voxels
        values = _interpolate(values, axis, torch.arange(size[axis]) * scale[axis] + position[axis, axes])
    restored = MetaTensor(values[None]).copy_meta_from(channel)
    restored.affine = to_affine_nd(len(channel.affine) - 1, there)
    restored.applied_operations = channel.applied_operations[:-1]
    return restored


def _interpolate(values: torch.Tensor, axis: int, positions: torch.Tensor) -> torch.Tensor:
    """Read `values` (*S) between their voxels along one axis, linearly; what lies outside is read at the border."""
    n = values.shape[axis]
    positions = positions.clamp(0, n - 1)
    if torch.equal(positions, torch.arange(n, dtype=positions.dtype)):
        return values
    lower = positions.long()
    share = (positions - lower).to(values).view(-1, *[1] * (values.ndim - 1 - axis))
    lower = lower.to(values.device)
    upper = (lower + 1).clamp(max=n - 1)
    result = values.new_empty((*values.shape[:axis], len(positions), *values.shape[axis + 1 :]))
    rows = max(1, _VOXELS_AT_ONCE * len(result) // result.numel())
    for first in range(0, len(result), rows):
        part = slice(first, first + rows)
        if axis == 0:
            before, after, weight = values[lower[part]], values[upper[part]], share[part]
        else:
            before, after, weight = (*(values[part].index_select(axis, at) for at in (lower, upper)), share)
        torch.lerp(before, after, weight, out=result[part])
    return result
