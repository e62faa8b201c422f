"""The data lists of a bundle: real cases where a folder is given, phantoms where none is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medsegdiff.data.datalist import all_cases, choose_split, msd_datalist
from medsegdiff.data.integrity import check_pair
from medsegdiff.data.phantoms import PhantomSpec, phantom_folder
from medsegdiff.data.splits import PARTS
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
            names = [item["case"] for item in all_cases(dataset_dir)]
            chosen = choose_split(dataset_dir, names, split_file=split_file, fold=fold, seed=seed)
            msg = (
                f"{dataset_dir} has no case of the part {part!r} by {chosen.source}; "
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
    """The cases to evaluate, checked: one part of the split that training follows, or all labelled cases of a folder.

    Without a part it is the test part, of a folder that the split file does not know as well: the weights may have been
    trained on the others. A warning then says how to have all, which is right where they were not.

    Args:
        dataset_dir: as for `task_datalists`.
        part: "training", "validation", "test" or "all"; None for the test part.
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
        if part == "all":
            logger.info("%s: evaluating all %d labelled cases", dataset_dir, len(cases))
            check_cases(cases, phantoms)
            return cases
        if part is None:
            _say_which(dataset_dir, [item["case"] for item in cases], split_file=split_file, fold=fold, seed=seed)
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
    """How a run's `model.json` names what it was trained on: "phantoms", "seeded", or the file that its split is of.

    Raises:
        DataError: no usable folder, or no usable split of it.
    """
    if dataset_dir is None:
        return "phantoms"
    names = [item["case"] for item in all_cases(dataset_dir)]
    file = choose_split(dataset_dir, names, split_file=split_file, fold=fold).file
    name = "seeded" if file is None else file.stem
    return name if fold is None else f"{name}, fold {fold}"


def _say_which(dataset_dir: str, names: Sequence[str], *, split_file: str | None, fold: int | None, seed: int) -> None:
    """Say that only a part of a folder is evaluated, where no split file was given that knows it.

    Raises:
        DataError: a folder without a split that is too small for a seeded one.
    """
    try:
        chosen = choose_split(dataset_dir, names, split_file=split_file, fold=fold, seed=seed)
    except DataError as error:
        msg = f"{dataset_dir} cannot be split ({error}); give --part all if the weights were not trained on it"
        raise DataError(msg) from error
    if split_file is None or chosen.file != Path(split_file):
        logger.warning(
            "%s: evaluating %d of its %d labelled cases, the test part by %s%s; give --part all for all of them if the "
            "weights were not trained on this folder",
            dataset_dir,
            len(chosen.parts["test"]),
            len(names),
            chosen.source,
            " (as in training only if its --seed was the same)" if chosen.file is None else "",
        )
