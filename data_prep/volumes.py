"""One case of a 3-D data set: checked, and put where it belongs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.conversion import IMAGES, LABELS
from data_prep.drafts import GO_ON, Unfinished
from medsegdiff.data.integrity import (
    LABEL_TOLERANCE,
    ImageFacts,
    check_image,
    check_pair,
    check_same_grid,
    read_checked,
)
from medsegdiff.data.reading import image_suffix
from medsegdiff.data.writer import write_nifti
from medsegdiff.errors import DataError, one_line
from medsegdiff.files import written_whole

_MOST_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """The files of one case.

    Attributes:
        name: what its files will be called.
        images: modality to file, in the order of the channels.
        label: file of the label map.
        values: class number of every value that may be in the label; None where they are the class numbers.
        part: "training", "validation" or "test" where the publication says so.
        notes: further entries for its item in `dataset.json`.
    """

    name: str
    images: Mapping[str, Path]
    label: Path
    values: Mapping[int, int] | None = None
    part: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def image_targets(self) -> list[str]:
        """Paths of the images in the output; with several modalities, their names are part of them."""
        if len(self.images) == 1:
            return [f"{IMAGES}/{self.name}{image_suffix(path)}" for path in self.images.values()]
        return [f"{IMAGES}/{self.name}_{modality}{image_suffix(path)}" for modality, path in self.images.items()]

    @property
    def label_target(self) -> str:
        """Path of the label in the output."""
        return f"{LABELS}/{self.name}{image_suffix(self.label) if self.values is None else '.nii.gz'}"

    @property
    def targets(self) -> list[str]:
        """Paths of all its files in the output."""
        return [*self.image_targets, self.label_target]

    @property
    def item(self) -> dict[str, Any]:
        """Its entry of `dataset.json`; an image of several files is a list."""
        images = [f"./{target}" for target in self.image_targets]
        return {
            "image": images if len(images) > 1 else images[0],
            "label": f"./{self.label_target}",
            **self.notes,
        }


def convert_case(
    case: VolumeCase, *, folder: Path, num_classes: int, link: bool = False, scratch: Path | None = None
) -> str | None:
    """Check a case and put its files into a folder; each volume is read once.

    Args:
        case: what to convert.
        folder: holds imagesTr and labelsTr.
        num_classes: number of classes with the background.
        link: make symbolic links instead of copies.
        scratch: files below this folder are shared with it instead of copied; it is to be removed.

    Returns:
        One line that says why the case is a misfit, or None when it was kept.

    Raises:
        Unfinished: a file cannot be written.
    """
    try:
        label = _check(case, num_classes=num_classes)
    except DataError as error:
        return one_line(error)
    try:
        for source, target in zip((*case.images.values(), case.label), case.targets, strict=True):
            if label is None or source != case.label:
                _put(source, folder / target, link=link, scratch=scratch)
        if label is not None:
            array, affine = label
            write_nifti(array, folder / case.label_target, affine=affine, like=case.label)
    except (OSError, DataError) as error:
        msg = f"{one_line(error).partition('; ')[0]}; free space or mend the disk: {GO_ON}"
        raise Unfinished(msg) from error
    return None


def _check(case: VolumeCase, *, num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]] | None:
    """Check the files of a case; returns the label in class numbers and its affine where the file is not to be kept.

    Raises:
        DataError: whatever `check_pair` finds; modalities on different grids.
    """
    if case.values is None:
        images = list(case.images.values())
        check_pair(images, case.label, num_classes=num_classes, channels=len(images))
        return None
    first: ImageFacts | None = None
    for modality, path in case.images.items():
        try:
            facts = check_image(path, spatial_dims=3, channels=1)
            first = first or facts
            check_same_grid(first, facts)
        except DataError as error:
            msg = f"{modality}: {error}"
            raise DataError(msg) from error
    if first is None:
        msg = f"{case.name}: got no image; allowed is one or more; check the source"
        raise DataError(msg)
    return _mapped_label(case.label, first, case.values)


def _mapped_label(
    path: Path, image: ImageFacts, values: Mapping[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The label map in class numbers, on the grid of the image, and its affine."""
    raw, facts = read_checked(path, spatial_dims=3, channels=1)
    check_same_grid(image, facts)
    array = raw.array.reshape(facts.shape)
    found = np.unique(array)
    nearest = np.rint(found)
    wrong = found[(np.abs(found - nearest) > LABEL_TOLERANCE) | ~np.isin(nearest, list(values))]
    if len(wrong):
        listed = ", ".join(f"{value:g}" for value in wrong[:_MOST_LISTED].tolist())
        more = f" and {len(wrong) - _MOST_LISTED} more" if len(wrong) > _MOST_LISTED else ""
        msg = (
            f"{path}: got the label values {listed}{more} in {np.count_nonzero(np.isin(array, wrong))} voxels; allowed "
            f"are {', '.join(map(str, sorted(values)))}; correct the label"
        )
        raise DataError(msg)
    classes = np.array([values[int(whole)] for whole in nearest], np.uint8)
    if not classes.any():
        msg = f"{path}: got a label without foreground; allowed is at least one voxel of a class; complete the label"
        raise DataError(msg)
    return classes[np.searchsorted(found, array)], raw.affine


def _put(source: Path, target: Path, *, link: bool, scratch: Path | None) -> None:
    """Have a file in the output, whole or not at all."""
    if scratch is not None and source.is_relative_to(scratch):
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
            return
        except OSError:  # a file system without hard links
            pass
    elif link:
        target.unlink(missing_ok=True)
        target.symlink_to(source.resolve())
        return
    with written_whole(target, advice="free space") as partial:
        shutil.copyfile(source, partial)
