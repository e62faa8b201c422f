"""Seeded splits of cases that come out the same on every machine, and the files that hold them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medsegdiff.errors import DataError, SpecError
from medsegdiff.files import written_whole

PARTS = ("training", "validation", "test")
# Shares of training and validation where no sizes are given: 144/16/40 of 200 cases.
TRAINING_SHARE = 0.72
VALIDATION_SHARE = 0.08
# Share of the cases outside the test fold on which checkpoints are chosen.
FOLD_VALIDATION_SHARE = 0.1

Split = dict[str, list[str]]


def kfold(cases: Iterable[str], *, folds: int = 4, seed: int = 0) -> list[list[str]]:
    """Divide cases into disjoint folds whose sizes differ by one at most; their order does not matter.

    Raises:
        SpecError: fewer than two folds.
        DataError: a name twice, or fewer cases than folds.
    """
    if folds < 2:
        msg = f"got folds={folds}; allowed are 2 or more; give a larger number"
        raise SpecError(msg)
    order = _shuffled(cases, seed)
    if len(order) < folds:
        msg = f"got {len(order)} cases for {folds} folds; allowed is at least one case a fold; ask for fewer folds"
        raise DataError(msg)
    return [sorted(order[k::folds]) for k in range(folds)]


def three_way(cases: Iterable[str], *, training: int, validation: int, test: int, seed: int = 0) -> Split:
    """Divide cases into parts of the given sizes, which must add up to their number.

    Raises:
        DataError: a name twice, or sizes that do not add up.
    """
    order = _shuffled(cases, seed)
    if min(training, validation, test) < 0 or training + validation + test != len(order):
        msg = (
            f"got the sizes {training}/{validation}/{test} for {len(order)} cases; allowed are sizes of 0 or more "
            "that add up to the number of cases; change the sizes"
        )
        raise DataError(msg)
    held_out = test + validation
    return _parts(training=order[held_out:], validation=order[test:held_out], test=order[:test])


def proportional(cases: Iterable[str], *, seed: int = 0) -> Split:
    """Divide cases 72 : 8 : 20 into training, validation and test, none of them empty.

    Raises:
        DataError: a name twice, or fewer than three cases.
    """
    cases = list(cases)
    if len(cases) < len(PARTS):
        msg = f"got {len(cases)} cases; allowed are at least 3, one for each of {', '.join(PARTS)}; add cases"
        raise DataError(msg)
    validation = max(1, round(VALIDATION_SHARE * len(cases)))
    test = max(1, round((1 - TRAINING_SHARE - VALIDATION_SHARE) * len(cases)))
    return three_way(cases, training=len(cases) - validation - test, validation=validation, test=test, seed=seed)


def fold_split(folds: Sequence[Collection[str]], *, fold: int, seed: int = 0) -> Split:
    """The split of one round of cross-validation: fold number `fold` is the test part, counted from 0.

    A seeded tenth of the other cases, at least one, is the validation part, so that checkpoints are never chosen on
    the test part.

    Raises:
        SpecError: a fold that does not exist.
        DataError: fewer than two cases outside the test fold.
    """
    if not 0 <= fold < len(folds):
        msg = f"got fold={fold}; allowed are 0 to {len(folds) - 1}; give one of these"
        raise SpecError(msg)
    rest = [name for k, names in enumerate(folds) if k != fold for name in names]
    if len(rest) < 2:
        msg = f"got {len(rest)} cases outside fold {fold}; allowed are at least 2, to train and to validate; add cases"
        raise DataError(msg)
    validation = max(1, round(FOLD_VALIDATION_SHARE * len(rest)))
    order = _shuffled(rest, seed)
    return _parts(training=order[validation:], validation=order[:validation], test=folds[fold])


def check_split(
    split: Mapping[str, Collection[str]], *, cases: Collection[str] | None = None, source: str = ""
) -> None:
    """Make sure that no case is in two parts and, when `cases` are given, that all of them are known.

    Args:
        split: names of cases in each part.
        cases: the cases that the data has; None leaves them unchecked.
        source: what messages begin with, for instance the path of the file.

    Raises:
        DataError: a name in two parts, twice in one, or not among `cases`.
    """
    prefix = f"{source}: " if source else ""
    counts = Counter(name for names in split.values() for name in names)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        msg = (
            f"{prefix}got {_listed(repeated)} more than once; allowed is each case in one part only; "
            "remove the repetitions"
        )
        raise DataError(msg)
    unknown = sorted(set(counts).difference(cases)) if cases is not None else []
    if unknown:
        msg = (
            f"{prefix}got {_listed(unknown)}, missing from the data; allowed are the data's own cases; "
            "remove these names or add their files"
        )
        raise DataError(msg)


def write_split(path: str | Path, split: Mapping[str, Collection[str]], *, name: str = "", seed: int = 0) -> None:
    """Write the parts of a split as JSON; `name` (by default the file's) and `seed` say where it came from."""
    check_split(split, source=str(path))
    content = {"name": name or Path(path).stem, "seed": seed}
    write_json(path, content | {part: sorted(split.get(part, ())) for part in PARTS})


def read_split(path: str | Path, *, cases: Collection[str] | None = None) -> Split:
    """Read what `write_split` wrote; `cases`, when given, must hold every name of it.

    Raises:
        DataError: missing or unreadable file, no split in it, or what `check_split` finds.
    """
    content = _read_json(path)
    if not all(_is_names(content.get(part)) for part in PARTS):
        msg = f"{path}: got no split; allowed is JSON with a list of case names for each of {', '.join(PARTS)}; mend it"
        raise DataError(msg)
    split = {part: list(content[part]) for part in PARTS}
    check_split(split, cases=cases, source=str(path))
    return split


def write_folds(path: str | Path, folds: Sequence[Collection[str]], *, name: str = "", seed: int = 0) -> None:
    """Write folds as JSON; `name` (by default the file's) and `seed` say where they came from."""
    check_split({str(k): names for k, names in enumerate(folds)}, source=str(path))
    write_json(path, {"name": name or Path(path).stem, "seed": seed, "folds": [sorted(names) for names in folds]})


def read_folds(path: str | Path) -> list[list[str]] | None:
    """Read what `write_folds` wrote; None when the file holds no folds but a split.

    Raises:
        DataError: missing or unreadable file, folds that are no lists of names, or a case in two folds.
    """
    content = _read_json(path)
    folds = content.get("folds")
    if folds is None:
        return None
    if not isinstance(folds, list) or not all(_is_names(names) for names in folds):
        msg = f"{path}: got folds that are no lists of names; allowed is one list of case names a fold; mend it"
        raise DataError(msg)
    check_split({str(k): names for k, names in enumerate(folds)}, source=str(path))
    return [list(names) for names in folds]


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that the file is there completely or not at all.

    Raises:
        DataError: the place cannot be written.
    """
    with written_whole(path, advice="allowed is a folder with write permission; choose another") as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _shuffled(cases: Iterable[str], seed: int) -> list[str]:
    """Cases in the order of a hash of (seed, name): no random generator whose algorithm could change is involved."""
    names = list(cases)
    check_split({"cases": names})
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}/{name}".encode()).hexdigest(), name))


def _parts(**parts: Collection[str]) -> Split:
    return {part: sorted(parts[part]) for part in PARTS}


def _read_json(path: str | Path) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read as JSON ({error}); allowed is a file of case names; give another path or mend it"
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path}: got a JSON {type(content).__name__}; allowed is an object with named lists; give another file"
        raise DataError(msg)
    return content


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} name{'s' if len(names) > 1 else ''} ({', '.join(names[:most])}{more})"
