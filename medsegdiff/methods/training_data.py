"""What weights were trained on, and under which licence.

Both are told by `training_data` of the `model.json` that training writes, and for the weights that a bundle ships by
that of its `configs/metadata.json`: a list with an entry {"name", "licence"[, "url"]} for each data set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medsegdiff.data.bundle_metadata import METADATA, read_metadata
from medsegdiff.data.datalist import dataset_description
from medsegdiff.errors import SpecError
from medsegdiff.methods.build import spec_path
from medsegdiff.methods.run_spec import RunSpec

ENTRY = "training_data"
NOT_STATED = "not stated"
PHANTOMS = {"name": "generated phantoms, not real images", "licence": "CC0-1.0"}
_UNKNOWN = {"name": NOT_STATED, "licence": NOT_STATED}
_WEIGHTS_FOLDER = "models"


def weights_training_data(weights: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The data sets that weights were trained on; one that is "not stated" where nobody says.

    Args:
        weights: a `model.pt` with its `model.json`.

    Raises:
        WeightsError: a `model.json` that is missing or cannot be read.
        DataError: metadata of the bundle that cannot be read.
        SpecError: entries that are none.
    """
    weights = Path(weights)
    spec = RunSpec.read(spec_path(weights))
    if spec.training_data is not None:
        return _checked(spec.training_data, spec_path(weights))
    if spec.split == "phantoms":
        return [PHANTOMS]
    folder = weights.absolute().parent
    shipped = read_metadata(folder.parent).get(ENTRY) if folder.name == _WEIGHTS_FOLDER else None
    return _checked(shipped, folder.parent / METADATA) if shipped else [_UNKNOWN]


def training_data(dataset_dir: str | None, init_weights: str | os.PathLike[str] | None = None) -> list[dict[str, str]]:
    """What a run's `model.json` says of its data: by the `dataset.json` of the folder, and what it started from.

    Args:
        dataset_dir: a folder whose `dataset.json` may have "name", "licence" and "reference"; None for phantoms.
        init_weights: weights that training starts from, whose data sets are added; they need no `model.json`.
    """
    own = PHANTOMS
    if dataset_dir is not None:
        about = dataset_description(dataset_dir)
        own = {key: str(about.get(key) or NOT_STATED) for key in ("name", "licence")}
    earlier: list[dict[str, str]] = []
    if init_weights is not None:
        earlier = weights_training_data(init_weights) if spec_path(init_weights).is_file() else [_UNKNOWN]
    return [own, *(entry for entry in earlier if entry != own)]


def in_words(data: list[dict[str, str]]) -> str:
    """Data sets with their licences on one line, such as "Task04 Hippocampus (CC BY-SA 4.0)"."""
    return "; ".join(
        NOT_STATED if entry["name"] == NOT_STATED else f"{entry['name']} ({_licence(entry['licence'])})"
        for entry in data
    )


def _licence(licence: str) -> str:
    return "licence not stated" if licence == NOT_STATED else licence


def _checked(entries: Any, path: Path) -> list[dict[str, str]]:
    if not isinstance(entries, list) or not entries or not all(_is_entry(entry) for entry in entries):
        msg = f"{path}, {ENTRY}: got {entries!r}; allowed are objects with the texts name, licence and url; mend it"
        raise SpecError(msg)
    return entries


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and {"name", "licence"} <= set(entry) <= {"name", "licence", "url"}
        and all(isinstance(value, str) for value in entry.values())
    )
