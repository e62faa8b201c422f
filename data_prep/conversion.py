"""What a conversion leaves behind: `dataset.json`, splits, and an account of what was not kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.settings import SplitSettings
from data_prep.splits import SplitRule, write_splits
from medsegdiff.data.datalist import DATASET_FILE
from medsegdiff.data.splits import PARTS, Split, write_json
from medsegdiff.errors import DataError

IMAGES, LABELS = "imagesTr", "labelsTr"
MISFITS_FILE = "misfits.json"


@dataclass(frozen=True)
class Misfit:
    """A case that was not kept, and the one line that says why; also a remark on one that was."""

    case: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class About:
    """What `dataset.json` says of a data set.

    Attributes:
        name: also begins the names of its split files.
        description: one line.
        reference: who made it.
        licence: of the data.
        modalities: names of the channels of an image, in their order.
        classes: names, background first.
    """

    name: str
    description: str
    reference: str
    licence: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was not kept, and what was changed.

    Attributes:
        misfits: cases that were not kept.
        remarks: what was changed in cases that were kept.
        left_out: numbers of cases that are no part of the data set, by what they are.
    """

    misfits: Sequence[Misfit] = ()
    remarks: Sequence[Misfit] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """The names of the cases that were kept, their split, and the entries of their `Account`."""

    kept: tuple[str, ...]
    misfits: tuple[Misfit, ...]
    split: Split
    remarks: tuple[Misfit, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """Numbers in one line."""
        sizes = ", ".join(f"{len(self.split[part])} {part}" for part in PARTS)
        numbers = [f"kept {len(self.kept)} pairs ({sizes})", f"{len(self.misfits)} misfits"]
        if self.remarks:
            numbers.append(f"{len(self.remarks)} remarks")
        numbers += [f"left out {number} {kind}" for kind, number in self.left_out.items()]
        return f"{', '.join(numbers)}, see {MISFITS_FILE}"


def existing_source(source: str | Path) -> Path:
    """The absolute path of a source.

    Raises:
        DataError: there is none.
    """
    path = Path(source).absolute()
    if not path.exists():
        msg = f"{path}: there is no such file or folder; give the published archive or the folder that comes out of it"
        raise DataError(msg)
    return path


def in_own_terms(text: str, *folders: Path) -> str:
    """Paths below these folders without them: those of drafts and of extracted archives are gone afterwards."""
    for folder in folders:
        text = text.replace(f"{folder}{os.sep}", "")
    return text


def describe(
    folder: Path,
    about: About,
    items: Mapping[str, Mapping[str, Any]],
    *,
    spatial_dims: int,
    parts: Mapping[str, str | None],
    split: SplitRule,
    settings: SplitSettings,
    account: Account,
    source: Path,
    more: Mapping[str, Any] | None = None,
) -> Conversion:
    """Write `dataset.json`, `splits/` and `misfits.json` beside images and labels.

    Args:
        folder: holds images and labels.
        about: the data set.
        items: case name to its entry of `dataset.json`, such as {"image": path, "label": path}.
        spatial_dims: 2 or 3.
        parts: case name to the part that the publication names for it, if it does.
        split: which case belongs to which part.
        settings: of the splits.
        account: what was not kept.
        source: for the message.
        more: further entries of `dataset.json`.

    Raises:
        DataError: no case was kept, or a file cannot be written.
    """
    misfits = sorted(account.misfits, key=lambda misfit: misfit.case)
    if not items:
        first = f", for instance {misfits[0].case}: {misfits[0].reason}" if misfits else ""
        others = "".join(f", and left out {number} {kind}" for kind, number in account.left_out.items())
        msg = (
            f"{source}: got no sound pair and {len(misfits)} misfits{first}{others}; allowed is the layout that "
            "--help describes; check the source"
        )
        raise DataError(msg)
    cases = sorted(items)
    splits = split({case: parts.get(case) for case in cases}, settings)
    content = {
        "name": about.name,
        "description": about.description,
        "reference": about.reference,
        "licence": about.licence,
        "tensorImageSize": f"{spatial_dims}D",
        "modality": {str(channel): name for channel, name in enumerate(about.modalities)},
        "labels": {str(value): name for value, name in enumerate(about.classes)},
        **(more or {}),
        "numTraining": len(items),
        "numTest": 0,
        "training": [dict(items[case]) for case in cases],
        "test": [],
        "splits": write_splits(folder / "splits", about.name, splits, seed=settings.seed),
    }
    write_json(folder / DATASET_FILE, content)
    notes = {
        "misfits": [asdict(misfit) for misfit in misfits],
        "remarks": [asdict(remark) for remark in account.remarks],
        "left_out": dict(account.left_out),
    }
    write_json(folder / MISFITS_FILE, notes)
    return Conversion(
        tuple(cases),
        tuple(misfits),
        splits.split or {part: [] for part in PARTS},
        remarks=tuple(account.remarks),
        left_out=dict(account.left_out),
    )
