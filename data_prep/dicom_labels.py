"""Labels for the volumes of DICOM studies: from the segmentations and contours that lie beside the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.dicom_study import LabelFile, Study
from medsegdiff.data.dicom.annotation import Structure, read_structures
from medsegdiff.data.dicom.plan import Item
from medsegdiff.errors import DataError, SpecError, one_line

BACKGROUND = "background"
_NOT_CONVERTED = "labels of a series that is not converted"


@dataclass(frozen=True)
class LabelClass:
    """A class of labels, and the structures that are of it.

    Attributes:
        name: of the class.
        patterns: shell patterns, such as `gtv*`, of the names of structures, in any case.
    """

    name: str
    patterns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> LabelClass:
        """From `NAME`, for the structures of that name, or `NAME=PATTERN,PATTERN`.

        Raises:
            SpecError: no name or no pattern, or the name of the background.
        """
        name, equals, patterns = (part.strip() for part in text.partition("="))
        chosen = tuple(pattern.strip() for pattern in patterns.split(",")) if equals else (name,)
        if not name or not all(chosen) or name.lower() == BACKGROUND:
            msg = (
                f"got the label {text!r}; allowed are NAME and NAME=PATTERN,PATTERN, not {BACKGROUND}; name structures"
            )
            raise SpecError(msg)
        return cls(name, chosen)

    def takes(self, structure: str) -> bool:
        """Whether a structure of this name is of the class."""
        return any(fnmatchcase(structure.lower(), pattern.lower()) for pattern in self.patterns)


class Labelling:
    """Which structures become the labels of which volumes, and why others do not.

    A file belongs to all volumes of the series that it refers to; where it refers to none, to the one series of its
    study and frame of reference. All files of a volume are put together. Without `classes`, every name is a class, and
    structures that overlap, or share a name, are refused; with them, a later class lies over an earlier one.

    Args:
        study: the images and the files of structures.
        classes: in the order of their numbers from 1; none for all structures, in the order in which they are found.

    Attributes:
        class_names: background first; only the background where no volume has a label.
        skipped: by the name of an item of the study, why its labels were not asked for.
        refused: by the name of an item, why its labels cannot be used.
    """

    def __init__(self, study: Study, classes: Sequence[LabelClass] = ()) -> None:
        self._study = study
        self._any = not classes
        self._files: dict[str, list[LabelFile]] = {}
        self._used: dict[str, list[str]] = {}
        self.skipped: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        names: dict[str, None] = {}
        for file in study.label_files:
            wanted = [name for name in file.annotation.names if self._any or any(c.takes(name) for c in classes)]
            owners = self._owners(file) if wanted else []
            if file.annotation.names and not wanted:
                self.skipped[file.item] = "labels that were not asked for"
            for item in owners:
                self._files.setdefault(item.name, []).append(file)
                names |= dict.fromkeys(study.shown(name) for name in wanted)
        self._classes = list(classes) or [LabelClass(name, (name,)) for name in names]
        self.class_names = [BACKGROUND, *(label.name for label in self._classes)] if self._files else [BACKGROUND]

    def of(self, item: Item) -> NDArray[np.unsignedinteger[Any]] | None:
        """The label map (columns, rows, slices) of a volume; None where it has none that can be used."""
        if item.grid is None or item.name not in self._files:
            return None
        structures: list[Structure] = []
        used: list[LabelFile] = []
        for file in self._files[item.name]:
            try:
                structures += read_structures(file.annotation, item.grid)
                used.append(file)
            except DataError as error:
                self._refuse(file, error)
        try:
            label = self._merged(structures)
        except DataError as error:
            for file in used:
                self._refuse(file, error)
            return None
        if label is not None:
            for file in used:
                self._used.setdefault(file.item, []).append(item.name)
        return label

    def outcome(self, item: Item) -> tuple[str, str, list[str]]:
        """Why an item of structures is skipped, why refused, and names of the volumes that have their labels from it.

        For all volumes of a series a file seldom fits: what fits one is not refused for the others.
        """
        used = self._used.get(item.name, [])
        refused = "" if used else self.refused.get(item.name, "")
        if used or refused or item.skipped:
            return item.skipped, refused, used
        return self.skipped.get(item.name, _NOT_CONVERTED), "", []

    def _owners(self, file: LabelFile) -> list[Item]:
        """The volumes that a file belongs to."""
        annotation = file.annotation
        images = [item for item in self._study.items if item.header.no_image is None]
        if annotation.series_uids:
            # Whatever it has as its frame of reference, for which some writers invent a UID.
            owners = [item for item in images if item.header.series_uid in annotation.series_uids]
            missing = "refers to a series that is not among the sources; give that series, too"
        else:
            owners = [item for item in images if _is_of_study(item, file)]
            owners = owners if len({item.header.series_uid for item in owners}) == 1 else []
            missing = "refers to no series, and its study has not exactly one here; give it with its series alone"
        if not owners:
            self._refuse(file, DataError(missing))
        elif all(item.grid is None for item in owners):
            self.skipped[file.item] = _NOT_CONVERTED
        return [item for item in owners if item.grid is not None]

    def _refuse(self, file: LabelFile, error: DataError) -> None:
        self.refused.setdefault(file.item, self._study.shown(one_line(error)))

    def _merged(self, structures: Sequence[Structure]) -> NDArray[np.unsignedinteger[Any]] | None:
        highest = len(self._classes)
        dtype = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
        if not structures:
            return None
        merged = np.zeros(structures[0].mask.shape, dtype)
        taken = 0
        for number, label in enumerate(self._classes, start=1):
            members = [structure for structure in structures if self._is_of(structure, label)]
            if self._any and len(members) > 1:
                msg = (
                    f"got {len(members)} structures {label.name!r}; allowed is one of a name; name classes with --label"
                )
                raise DataError(msg)
            for structure in members:
                before = merged[structure.mask]
                if self._any and before.any():
                    other = self._classes[int(before.max()) - 1].name
                    shared = np.count_nonzero(before == before.max())
                    msg = (
                        f"got {other!r} and {label.name!r}, which share {shared} voxels; allowed is one class a voxel; "
                        "name classes with --label, of which a later one lies over an earlier"
                    )
                    raise DataError(msg)
                merged[structure.mask] = number
                taken += 1
        return merged if taken else None

    def _is_of(self, structure: Structure, label: LabelClass) -> bool:
        return self._study.shown(structure.name) == label.name if self._any else label.takes(structure.name)


def _is_of_study(item: Item, file: LabelFile) -> bool:
    """Whether a volume is of the study of a file, and has its frame of reference as far as that is known."""
    known = {item.header.frame_of_reference, file.annotation.frame_of_reference} - {""}
    return item.header.study_uid == file.annotation.study_uid and len(known) < 2
