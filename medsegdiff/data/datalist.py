"""From a folder of images and labels to MONAI data lists for training, validation and test."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from medsegdiff.data.reading import case_name, image_suffix
from medsegdiff.data.splits import PARTS, Split, fold_split, kfold, proportional, read_folds, read_split
from medsegdiff.errors import DataError, SpecError

logger = logging.getLogger(__name__)

DATASET_FILE = "dataset.json"
FOLDER_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"))
# Keys of our own entry `splits` in a dataset.json: paths, relative to it, of a split file and of a file of folds.
DEFAULT_SPLIT_KEY = "default"
FOLDS_KEY = "folds"

Item = dict[str, Any]


@dataclass(frozen=True)
class Pairing:
    """Files of two folders, matched by case name (the file name without its suffix).

    Attributes:
        pairs: case name to (image, label), in the order of the names.
        images_without_label: case name to image.
        labels_without_image: case name to label.
        repeated: case name to files, where a folder holds several of one case; such cases are in none of the above.
    """

    pairs: dict[str, tuple[Path, Path]]
    images_without_label: dict[str, Path]
    labels_without_image: dict[str, Path]
    repeated: dict[str, list[Path]]


@dataclass(frozen=True)
class ChosenSplit:
    """Which case of a folder belongs to which part, and what says so.

    Attributes:
        parts: names of cases of the folder.
        file: the file that was followed; None for a seeded split.
        source: what was followed, for messages: the path of the file, or the seed.
        remarks: what does not fit between the folder and the files that were asked.
    """

    parts: Split
    file: Path | None
    source: str
    remarks: tuple[str, ...]


def msd_datalist(
    dataset_dir: str | Path,
    *,
    split_file: str | Path | None = None,
    fold: int | None = None,
    folds: int = 4,
    seed: int = 0,
) -> dict[str, list[Item]]:
    """List the labelled cases of a folder in the manner of the Medical Segmentation Decathlon (MSD), by part.

    Cases come from `dataset.json` when there is one, else from files of the same name in `imagesTr` and `labelsTr`,
    else in `images` and `labels`. Which part a case belongs to comes, in this order, from `split_file`, from the file
    that the `splits` entry of `dataset.json` names, or from the seed: 72 : 8 : 20, or `folds` folds.

    Names in the file that the folder lacks are dropped, cases of the folder that the file does not know go to no part;
    both are logged with their number. A file of which no name matches at all gives way to what comes next.

    Args:
        dataset_dir: the folder.
        split_file: a file by `write_split`, or by `write_folds` together with `fold`.
        fold: number of the fold that is the test part, from 0; None for a plain split.
        folds: number of folds where no file gives them.
        seed: seed of what no file gives.

    Returns:
        `training`, `validation` and `test`, each a list of {"image": path, "label": path, "case": name}.

    Raises:
        DataError: no such folder, no pair of image and label in it, or a split file that cannot be used.
        SpecError: a fold that does not exist, or `fold` with a file that holds no folds, or the reverse.
    """
    items = {item["case"]: item for item in all_cases(dataset_dir)}
    chosen = choose_split(dataset_dir, items, split_file=split_file, fold=fold, folds=folds, seed=seed)
    for remark in chosen.remarks:
        logger.warning("%s", remark)
    sizes = ", ".join(f"{len(chosen.parts[part])} {part}" for part in PARTS)
    logger.info("%s: %s cases, split by %s", dataset_dir, sizes, chosen.source)
    return {part: [items[name] for name in chosen.parts[part]] for part in PARTS}


def choose_split(
    dataset_dir: str | Path,
    cases: Collection[str],
    *,
    split_file: str | Path | None = None,
    fold: int | None = None,
    folds: int = 4,
    seed: int = 0,
) -> ChosenSplit:
    """The split of a folder's cases, for training, evaluation and reports alike; see `msd_datalist` for all else.

    Raises:
        DataError: a file that cannot be used, or too few cases for a seeded split.
        SpecError: a fold that does not exist, or `fold` with a file that holds no folds, or the reverse.
    """
    asked: dict[Path, int] = {}
    for path in (Path(split_file) if split_file else None, _named_split(Path(dataset_dir), fold)):
        if path is None or path in asked:
            continue
        split = _split_from_file(path, fold=fold, seed=seed)
        named = {name for part in PARTS for name in split[part]}
        known = named.intersection(cases)
        if known:
            parts = {part: [name for name in split[part] if name in known] for part in PARTS}
            remarks = _unmatched(asked, str(path))
            if len(known) < len(named):
                remarks.append(f"{path}: {len(named) - len(known)} of its {len(named)} cases are not in the data")
            if len(known) < len(cases):
                remarks.append(f"{path}: {len(cases) - len(known)} cases of the data are in no part of it")
            return ChosenSplit(parts, path, str(path), tuple(remarks))
        asked[path] = len(named)
    if fold is None:
        parts = proportional(cases, seed=seed)
    else:
        parts = fold_split(kfold(cases, folds=folds, seed=seed), fold=fold, seed=seed)
    return ChosenSplit(parts, None, f"seed {seed}", tuple(_unmatched(asked, "a seeded split")))


def all_cases(dataset_dir: str | Path) -> list[Item]:
    """List every labelled case of a folder, whatever part it would belong to.

    Returns:
        {"image": path, "label": path, "case": name} in the order of the names; an image of several files is a list.

    Raises:
        DataError: no such folder, an unreadable `dataset.json`, two files of one case, or no pair of image and label.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        msg = f"{folder}: there is no such folder; give the folder that holds {DATASET_FILE} or imagesTr and labelsTr"
        raise DataError(msg)
    items = _from_dataset_json(folder) if (folder / DATASET_FILE).is_file() else _from_folders(folder)
    if not items:
        msg = (
            f"{folder}: got no pair of image and label; allowed is a folder with {DATASET_FILE}, or with files of the "
            "same names in imagesTr and labelsTr or in images and labels; check the path"
        )
        raise DataError(msg)
    return sorted(items, key=lambda item: item["case"])


def pair_files(images: str | Path, labels: str | Path) -> Pairing:
    """Match the files of two folders by case name; hidden files (macOS's `._` copies) and other formats are ignored."""
    left, right = _files_by_case(Path(images)), _files_by_case(Path(labels))
    repeated = {
        name: left.get(name, []) + right.get(name, [])
        for name in sorted(left.keys() | right.keys())
        if len(left.get(name, [])) > 1 or len(right.get(name, [])) > 1
    }
    left, right = ({name: side[name] for name in sorted(side.keys() - repeated.keys())} for side in (left, right))
    return Pairing(
        pairs={name: (left[name][0], right[name][0]) for name in left if name in right},
        images_without_label={name: left[name][0] for name in left if name not in right},
        labels_without_image={name: right[name][0] for name in right if name not in left},
        repeated=repeated,
    )


def _files_by_case(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and image_suffix(path) is not None:
            files.setdefault(case_name(path), []).append(path)
    return files


def _from_folders(folder: Path) -> list[Item]:
    for images, labels in FOLDER_PAIRS:
        if not (folder / images).is_dir():
            continue
        pairing = pair_files(folder / images, folder / labels)
        if pairing.repeated:
            _raise_repeated(folder, next(iter(pairing.repeated)))
        unpaired = len(pairing.images_without_label) + len(pairing.labels_without_image)
        if unpaired:
            logger.warning("%s: left out %d files without a partner in %s or %s", folder, unpaired, images, labels)
        return [_item(name, str(image), label) for name, (image, label) in pairing.pairs.items()]
    return []


def _from_dataset_json(folder: Path) -> list[Item]:
    source = folder / DATASET_FILE
    items: dict[str, Item] = {}
    missing: list[Path] = []
    entries = dataset_description(folder).get("training", [])
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            msg = (
                f'{source}: got the training entry {entry!r}; allowed is {{"image": path, "label": path}}; '
                "mend the file, or remove it to have imagesTr and labelsTr matched by name"
            )
            raise DataError(msg)
        images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
        paths = [folder / str(image) for image in images]
        label = folder / str(entry["label"])
        absent = [path for path in (*paths, label) if not path.exists()]
        if absent and absent[0] != label and any(path.exists() for path in paths):
            msg = (
                f"{absent[0]}: there is no such file, though {DATASET_FILE} lists it and other modalities of its case "
                f"are there; add it, or take the case out of {DATASET_FILE}"
            )
            raise DataError(msg)
        if absent:
            missing.append(absent[0])
            continue
        image = [str(path) for path in paths] if isinstance(entry["image"], list) else str(paths[0])
        name = case_name(label)
        if name in items:
            _raise_repeated(source, name)
        items[name] = _item(name, image, label)
    if missing:
        text = "%s: left out %d of %d cases whose files are missing, such as %s"
        logger.warning(text, source, len(missing), len(entries), missing[0])
    return list(items.values())


def dataset_description(dataset_dir: str | Path) -> dict[str, Any]:
    """The content of the `dataset.json` of a folder, empty where it has none.

    Raises:
        DataError: it cannot be read as the object of an MSD task.
    """
    path = Path(dataset_dir) / DATASET_FILE
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = (
            f"{path}: cannot be read as JSON ({error}); allowed is the list of cases of an MSD task; mend or remove it"
        )
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: got a JSON {type(content).__name__}; allowed is the object of an MSD task; mend or remove it"
        raise DataError(msg)
    return content


def _named_split(folder: Path, fold: int | None) -> Path | None:
    """The file that the `splits` entry of `dataset.json` names for a plain split or for folds, if it does."""
    splits = dataset_description(folder).get("splits")
    if isinstance(splits, str):
        splits = {DEFAULT_SPLIT_KEY: splits}
    name = splits.get(DEFAULT_SPLIT_KEY if fold is None else FOLDS_KEY) if isinstance(splits, dict) else None
    return folder / name if isinstance(name, str) else None


def _unmatched(asked: dict[Path, int], used: str) -> list[str]:
    return [f"{path}: none of its {n} cases is in the data; {used} is used instead" for path, n in asked.items()]


def _split_from_file(path: Path, *, fold: int | None, seed: int) -> Split:
    folds = read_folds(path)
    if folds is not None and fold is not None:
        return fold_split(folds, fold=fold, seed=seed)
    if folds is None and fold is None:
        return read_split(path)
    if folds is None:
        msg = (
            f"{path}: got fold={fold} for a file without folds; allowed is a file of folds; give one or leave out fold"
        )
    else:
        msg = f"{path}: got {len(folds)} folds and no fold to test on; allowed are 0 to {len(folds) - 1}; give fold"
    raise SpecError(msg)


def _raise_repeated(source: Path, name: str) -> NoReturn:
    msg = f"{source}: got two files for the case {name}; allowed is one; remove or rename one of them"
    raise DataError(msg)


def _item(name: str, image: str | list[str], label: Path) -> Item:
    return {"image": image, "label": str(label), "case": name}
