"""Reading the files of a case with a remark for all that is wrong, where training stops at the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medsegdiff.data.integrity import (
    ImageFacts,
    check_affine,
    check_axes,
    check_contrast,
    check_finite,
    check_same_grid,
    facts_of,
)
from medsegdiff.data.reading import read_image
from medsegdiff.data.remarks import Remarks


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the cases of a task have in common.

    Attributes:
        spatial_dims: 2 or 3.
        channels: number of image channels; None where it is not known.
        class_names: background first; empty where classes are not known.
        channel_names: empty where they are not known.
    """

    spatial_dims: int
    channels: int | None = None
    class_names: tuple[str, ...] = ()
    channel_names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CaseFile:
    """One file of a case.

    Attributes:
        facts: of the file.
        array: its voxels (*S[, channels]).
        sound_grid: whether its affine says where the voxels lie.
        finite: whether all of its voxels are finite real numbers.
    """

    facts: ImageFacts
    array: NDArray[Any]
    sound_grid: bool
    finite: bool

    def channels(self) -> list[NDArray[Any]]:
        """Each channel (*S)."""
        array = self.array.reshape(*self.facts.shape, self.facts.channels)
        return [array[..., channel] for channel in range(self.facts.channels)]


def read_channels(paths: Sequence[str], expected: Expected, remarks: Remarks) -> list[CaseFile]:
    """Read the files of an image and note what is wrong with them; none where one of them is of no use."""
    several = len(paths) > 1
    if several and expected.channels not in (None, len(paths)):
        remarks.add("error", f"got {len(paths)} files for an image of {expected.channels} channels; give one a channel")
    files = [read_file(path, expected.spatial_dims, 1 if several else expected.channels, remarks) for path in paths]
    found = [file for file in files if file is not None]
    if len(found) < len(files):
        return []
    for file in found:
        if file.facts.minimum == file.facts.maximum:
            with remarks.errors():
                check_contrast(file.facts, file.array)
    before = len(remarks)
    for file in found[1:]:
        if file.sound_grid and found[0].sound_grid:
            with remarks.errors():
                check_same_grid(found[0].facts, file.facts)
    return found if len(remarks) == before else found[:1]


def read_file(path: str, spatial_dims: int, channels: int | None, remarks: Remarks) -> CaseFile | None:
    """Read one file and note everything that is wrong with it; None where its voxels make no sense."""
    file = Path(path)
    with remarks.errors():
        raw = read_image(file)
        if spatial_dims == 2 and raw.array.ndim > 2 and raw.array.shape[2] == 1:
            raw = replace(raw, array=raw.array.squeeze(2))
        check_axes(file, raw, spatial_dims=spatial_dims, channels=channels)
        sound_grid = finite = False
        with remarks.errors():
            check_affine(file, raw.affine)
            sound_grid = True
        with remarks.errors():
            check_finite(file, raw.array)
            finite = True
        if raw.array.dtype.kind in "biuf":
            return CaseFile(facts_of(file, raw, spatial_dims), raw.array, sound_grid, finite)
    return None
