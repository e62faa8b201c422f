"""Whether a folder holds what it says it holds, and how its cases are divided into parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsegdiff.data.case_files import Expected
from medsegdiff.data.datalist import DATASET_FILE, FOLDER_PAIRS, Item, all_cases, msd_datalist, pair_files
from medsegdiff.data.integrity import ImageFiles
from medsegdiff.data.reading import case_name, image_suffix, read_image
from medsegdiff.data.remarks import Remark, Remarks
from medsegdiff.errors import DataError

_SPATIAL_DIMS = {"2D": 2, "3D": 3, "4D": 3}  # the fourth axis of the Decathlon's images is that of the channels
_UNLABELLED = "imagesTs"
_DATALIST_LOGGER = "medsegdiff.data.datalist"


@dataclass(frozen=True)
class Listing:
    """The labelled cases of a folder.

    Attributes:
        items: {"image", "label", "case"} each, see `all_cases`.
        expected: what they should be like, from `dataset.json` and, where that says nothing, from the first label.
        parts: names of the cases of each part, as training would divide them; empty where it could not.
        remarks: files that are missing or not listed, and what is wrong with the split.
    """

    items: list[Item]
    expected: Expected
    parts: dict[str, list[str]]
    remarks: tuple[Remark, ...]


def list_dataset(
    dataset_dir: str | Path, *, split_file: str | Path | None = None, fold: int | None = None, seed: int = 0
) -> Listing:
    """List the labelled cases of a folder, their parts, and what does not fit its `dataset.json` or the split.

    Args:
        dataset_dir: the folder.
        split_file: which case belongs to which part, see `msd_datalist`.
        fold: which fold is the test part, likewise.
        seed: of a split without a file.

    Raises:
        DataError: no usable folder, see `all_cases`, or classes that are not counted from 0.
        SpecError: a fold that does not exist, or `fold` with a file that holds no folds, or the reverse.
    """
    folder = Path(dataset_dir)
    numbers = Remarks()  # of files that were left out; below they are named one by one
    with numbers.warnings_of(_DATALIST_LOGGER):
        items = all_cases(folder)
    description = _description(folder)
    remarks = _against_description(folder, description) if description else _without_partner(folder)
    parts: dict[str, list[str]] = {}
    of_split = Remarks()
    with of_split.errors(), of_split.warnings_of(_DATALIST_LOGGER):
        lists = msd_datalist(folder, split_file=split_file, fold=fold, seed=seed)
        parts = {part: [item["case"] for item in part_items] for part, part_items in lists.items()}
    remarks += [remark for remark in of_split if remark not in numbers]
    return Listing(items, _expected(folder, description, items), parts, tuple(remarks))


def _description(folder: Path) -> dict[str, Any]:
    """The `dataset.json` that `all_cases` has found sound; nothing where there is none."""
    path = folder / DATASET_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _expected(folder: Path, description: Mapping[str, Any], items: Sequence[Item]) -> Expected:
    channels = description.get("modality")
    channel_names = tuple(str(name) for name in channels.values()) if isinstance(channels, dict) else ()
    dims = _SPATIAL_DIMS.get(str(description.get("tensorImageSize")))
    return Expected(
        spatial_dims=dims or _guess_dims(items),
        channels=len(channel_names) or None,
        class_names=_class_names(folder, description.get("labels")),
        channel_names=channel_names,
    )


def _class_names(folder: Path, labels: object) -> tuple[str, ...]:
    if not isinstance(labels, dict):
        return ()
    try:
        names = [str(labels[str(value)]) for value in range(len(labels))]
    except KeyError as error:
        msg = (
            f'{folder / DATASET_FILE}: got labels for {", ".join(labels)}, without {error}; allowed are names for "0" '
            '(background), "1", "2", …; mend the file, or remove "labels" from it'
        )
        raise DataError(msg) from error
    return tuple(names)


def _guess_dims(items: Sequence[Item]) -> int:
    """The axes of the first label that can be read: labels have no channels."""
    for item in items:
        try:
            shape = read_image(item["label"]).array.shape
        except DataError:
            continue
        return 2 if len(shape) == 2 or set(shape[2:]) == {1} else 3
    return 3


def _against_description(folder: Path, description: Mapping[str, Any]) -> list[Remark]:
    entries = [(entry["label"], [*_files(entry["image"]), str(entry["label"])]) for entry in description["training"]]
    found = [
        Remark("error", case_name(label), f"{file}: listed in {DATASET_FILE} and missing; add it or mend the list")
        for label, files in entries
        for file in files
        if not (folder / file).exists()
    ]
    test = description.get("test")
    unlabelled = [str(file) for entry in test if entry for file in _files(entry)] if isinstance(test, list) else []
    found += [
        Remark("warning", case_name(file), f"{file}: listed as test in {DATASET_FILE} and missing")
        for file in unlabelled
        if not (folder / file).exists()
    ]
    listed = [file for _, files in entries for file in files] + unlabelled
    folders = {(folder / file).parent for file in listed}
    folders |= {folder / name for name in (*FOLDER_PAIRS[0], _UNLABELLED)}
    return found + _unlisted(folder, folders, {os.path.abspath(folder / file) for file in listed})


def _files(image: ImageFiles | dict[str, Any]) -> list[str]:
    """The files of an entry, which is a path, several, or an object with either."""
    if isinstance(image, dict):
        image = image.get("image", [])
    return [str(file) for file in image] if isinstance(image, (list, tuple)) else [str(image)]


def _unlisted(folder: Path, folders: Iterable[Path], listed: set[str]) -> list[Remark]:
    return [
        Remark("warning", case_name(path), f"{path.relative_to(folder)}: not listed in {DATASET_FILE}, left out")
        for place in sorted({Path(os.path.abspath(place)) for place in folders if place.is_dir()})
        for path in sorted(place.iterdir())
        if image_suffix(path) and not path.name.startswith(".") and str(path) not in listed
    ]


def _without_partner(folder: Path) -> list[Remark]:
    images, labels = next(pair for pair in FOLDER_PAIRS if (folder / pair[0]).is_dir())
    pairing = pair_files(folder / images, folder / labels)
    lonely = [(name, path, labels) for name, path in pairing.images_without_label.items()]
    lonely += [(name, path, images) for name, path in pairing.labels_without_image.items()]
    return [
        Remark("warning", name, f"{path.relative_to(folder)}: no file of this name in {other}, left out")
        for name, path, other in lonely
    ]
