"""Splits of a converted data set: the publication's, that of our tables, or seeded ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.settings import TABLE_SEED, SplitSettings
from medsegdiff.data.datalist import DEFAULT_SPLIT_KEY, FOLDS_KEY
from medsegdiff.data.splits import (
    PARTS,
    Split,
    fold_split,
    kfold,
    proportional,
    read_split,
    write_folds,
    write_split,
)

logger = logging.getLogger(__name__)

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
DEFAULT_FOLDS = 4


@dataclass(frozen=True)
class Splits:
    """A split and folds; None where there are too few cases."""

    split: Split | None
    folds: list[list[str]] | None


# Of the cases that were kept: the part that the publication names for each, and what the user chose -> their splits.
SplitRule = Callable[[Mapping[str, "str | None"], SplitSettings], Splits]


def default_splits(parts: Mapping[str, str | None], settings: SplitSettings, *, table: Path | None = None) -> Splits:
    """The publication's parts, else the split of our tables, else 72 : 8 : 20; and seeded folds of all cases.

    Args:
        parts: what the publication says of each case; without a validation part a tenth of its training part is taken.
        settings: their seed and number of folds.
        table: split file of our tables, taken with seed 0 where all of its cases are.
    """
    cases, seed = list(parts), settings.seed
    split = published_split(parts, seed=seed) or (_of_table(table, cases) if table and seed == TABLE_SEED else None)
    if split is None and len(cases) >= len(PARTS):
        split = proportional(cases, seed=seed)
    if split is None:
        logger.warning("%d cases are too few for a split", len(cases))
    return Splits(split, seeded_folds(cases, settings))


def published_split(parts: Mapping[str, str | None], *, seed: int) -> Split | None:
    """The parts that the publication names, or None where it names no test part; a case without one is for training.

    Without a validation part a seeded tenth of the training part is taken, so that checkpoints are never chosen on the
    test part.
    """
    named = {part: [case for case, found in parts.items() if (found or PARTS[0]) == part] for part in PARTS}
    training, validation, test = (named[part] for part in PARTS)
    if not test or len(training) + len(validation) < 2:
        return None
    return named if training and validation else fold_split([training + validation, test], fold=1, seed=seed)


def seeded_folds(cases: Sequence[str], settings: SplitSettings) -> list[list[str]] | None:
    """Folds of all cases, or None, and a warning, where there are fewer cases than folds."""
    folds = settings.folds or DEFAULT_FOLDS
    if len(cases) < folds:
        logger.warning("%d cases are too few for %d folds", len(cases), folds)
        return None
    return kfold(cases, folds=folds, seed=settings.seed)


def write_splits(folder: Path, name: str, splits: Splits, *, seed: int) -> dict[str, str]:
    """Write the files of a data set; returns the entry `splits` of its `dataset.json`."""
    entries = {}
    if splits.split:
        file = "_".join([name, *(str(len(splits.split[part])) for part in PARTS)])
        write_split(folder / f"{file}.json", splits.split, name=file, seed=seed)
        entries[DEFAULT_SPLIT_KEY] = f"{folder.name}/{file}.json"
    if splits.folds:
        write_folds(folder / "folds.json", splits.folds, name=f"{name}_folds", seed=seed)
        entries[FOLDS_KEY] = f"{folder.name}/folds.json"
    return entries


def _of_table(table: Path, cases: Sequence[str]) -> Split | None:
    """The split of the tables when all of its cases are here; absent where the package is installed without bundles."""
    split = read_split(table) if table.is_file() else {}
    named = {name for names in split.values() for name in names}
    if not named or not named <= set(cases):
        return None
    if len(named) < len(cases):
        logger.info("%d cases belong to no part of the split of the tables", len(cases) - len(named))
    return split
