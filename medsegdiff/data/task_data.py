"""The data lists of a bundle: real cases where a folder is given, phantoms where none is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsegdiff.data.datalist import all_cases, msd_datalist
from medsegdiff.data.integrity import check_pair
from medsegdiff.data.phantoms import PhantomSpec, phantom_folder
from medsegdiff.data.splits import PARTS, read_split
from medsegdiff.errors import DataError, SpecError

logger = logging.getLogger(__name__)


def task_datalists(
    dataset_dir: str | None,
    *,
    phantoms: PhantomSpec,
    num_phantoms: int = 160,
    split_file: str | None = None,
    fold: int | None = None,
    seed: int = 0,
    required: Sequence[str] = ("training", "validation"),
) -> dict[str, list[dict[str, Any]]]:
    """The cases of a task by part, each `{"image": …, "label": …, "case": …}`, checked before anything is trained.

    Args:
        dataset_dir: a folder with `dataset.json`, or `imagesTr` and `labelsTr`; None for generated phantoms.
        phantoms: what to generate; its channels and classes are what real cases are checked for as well.
        num_phantoms: how many to generate.
        split_file: which case belongs to which part, see `msd_datalist`; not used for phantoms.
        fold: which fold is the test split, see `msd_datalist`.
        seed: of the phantoms and of a split without a file.
        required: parts that must hold at least one case.

    Returns:
        {"training": […], "validation": […], "test": […]}.

    Raises:
        DataError: no usable folder, a required part without cases, or cases that are unfit for training.
    """
    if dataset_dir is None:
        folder = phantom_folder(phantoms, cases=num_phantoms, seed=seed)
        logger.warning(
            "no --dataset_dir given: using %d generated phantoms at %s, not real images", num_phantoms, folder
        )
        return msd_datalist(folder, seed=seed)
    lists = msd_datalist(dataset_dir, split_file=split_file, fold=fold, seed=seed)
    for part in required:
        if not lists[part]:
            msg = (
                f"{dataset_dir} has no case of the part {part!r} by {split_file or 'its split'}; "
                "give --split_file one that names cases of this folder for it"
            )
            raise DataError(msg)
    check_cases([item for part in PARTS for item in lists[part]], phantoms)
    return lists


def evaluation_cases(
    dataset_dir: str | None,
    part: str | None = None,
    *,
    phantoms: PhantomSpec,
    num_phantoms: int = 160,
    split_file: str | None = None,
    fold: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The cases to evaluate, checked: one part of the split, or all labelled cases of a folder.

    Args:
        dataset_dir: as for `task_datalists`.
        part: "training", "validation", "test" or "all"; None for the test part, and for all cases of a folder of
            which the split file knows none.
        phantoms: as for `task_datalists`, like the rest.
        num_phantoms: how many to generate.
        split_file: which case belongs to which part.
        fold: which fold is the test split.
        seed: of the phantoms and of a split without a file.

    Raises:
        DataError: no usable folder, unfit cases, or no case in this part.
        SpecError: no such part.
    """
    if part not in (None, *PARTS, "all"):
        msg = f"part {part!r} does not exist; use one of {', '.join((*PARTS, 'all'))}"
        raise SpecError(msg)
    if dataset_dir is not None:
        cases = all_cases(dataset_dir)
        foreign = split_file is not None and fold is None and not _known(cases, split_file)
        if part == "all" or (part is None and foreign):
            logger.info("%s: evaluating all %d labelled cases", dataset_dir, len(cases))
            check_cases(cases, phantoms)
            return cases
    lists = task_datalists(
        dataset_dir,
        phantoms=phantoms,
        num_phantoms=num_phantoms,
        split_file=split_file,
        fold=fold,
        seed=seed,
        required=(),
    )
    chosen = [item for name in PARTS for item in lists[name]] if part == "all" else lists[part or "test"]
    if not chosen:
        msg = f"{dataset_dir} has no case in the part {part or 'test'!r}; choose another --part, such as all"
        raise DataError(msg)
    return chosen


def check_cases(cases: Sequence[dict[str, Any]], task: PhantomSpec) -> None:
    """Check that every case fits the task.

    Raises:
        DataError: some do not; the message tells how many and why the first does not.
    """
    reasons = []
    for item in cases:
        try:
            check_pair(
                item["image"],
                item["label"],
                num_classes=task.num_classes,
                spatial_dims=len(task.shape),
                channels=task.in_channels,
            )
        except DataError as error:
            reasons.append(str(error))
    if reasons:
        more = f" ({len(reasons)} of {len(cases)} cases are unfit, this is the first)" if len(reasons) > 1 else ""
        msg = f"{reasons[0]}{more}"
        raise DataError(msg)


def split_name(dataset_dir: str | None, split_file: str | None, fold: int | None) -> str:
    """How a run's `model.json` names what it was trained on: "phantoms", or the split file with its fold."""
    if dataset_dir is None:
        return "phantoms"
    name = Path(split_file).stem if split_file else "seeded"
    return name if fold is None else f"{name}, fold {fold}"


def _known(cases: Sequence[dict[str, Any]], split_file: str) -> bool:
    split = read_split(split_file)
    names = {name for part in PARTS for name in split[part]}
    return any(item["case"] in names for item in cases)
