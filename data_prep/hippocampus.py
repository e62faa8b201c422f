"""The hippocampus task of the Medical Segmentation Decathlon: published folder or archive to a checked data set.

    python -m data_prep.hippocampus SOURCE --output DIR

SOURCE is `Task04_Hippocampus.tar`, the folder that comes out of it, or any folder or archive (tar, tar.gz, zip) with
`imagesTr` and `labelsTr`. DIR gets these two folders, `dataset.json`, `splits/` and `misfits.json`.

Simpson et al., A large annotated medical image dataset for the development and evaluation of segmentation algorithms,
arXiv:1902.09063 (2019); data at http://medicaldecathlon.com, CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from data_prep.folders import appearing_at_once, extract_archive
from medsegdiff.data.datalist import DATASET_FILE, DEFAULT_SPLIT_KEY, FOLDS_KEY, Pairing, pair_files
from medsegdiff.data.integrity import check_pair
from medsegdiff.data.splits import (
    PARTS,
    Split,
    kfold,
    proportional,
    read_split,
    write_folds,
    write_json,
    write_split,
)
from medsegdiff.errors import USER_ERROR_EXIT_CODE, DataError, MedSegDiffError, SpecError, one_line

logger = logging.getLogger(__name__)

IMAGES, LABELS = "imagesTr", "labelsTr"
CLASSES = ("background", "Anterior", "Posterior")
MISFITS_FILE = "misfits.json"
# The split of our tables: 200 of the 260 published cases. Absent where the package is installed without the bundles.
TABLE_SPLIT = Path(__file__).resolve().parents[1] / "bundles" / "hippocampus" / "configs" / "split_144_16_40.json"
TABLE_SEED = 0


@dataclass(frozen=True)
class Misfit:
    """A case that was not kept, and the one line that says why."""

    case: str
    reason: str


@dataclass(frozen=True)
class Conversion:
    """The names of the cases that were kept, their split, and what was not kept."""

    kept: tuple[str, ...]
    misfits: tuple[Misfit, ...]
    split: Split


def convert(
    source: str | Path, output: str | Path, *, folds: int = 4, seed: int = TABLE_SEED, link: bool = False
) -> Conversion:
    """Check every pair of `source` and write those that are sound, with their splits, to the new folder `output`.

    Args:
        source: folder or archive.
        output: a folder that is empty or does not exist; it appears complete or not at all.
        folds: number of folds of `splits/folds.json`.
        seed: seed of folds and split; with 0 the split of the tables is taken where all of its cases are.
        link: make symbolic links to the files of a source folder instead of copies.

    Raises:
        DataError: a source that is missing, no archive or without any sound pair; an output that cannot be written.
        SpecError: links into an archive, or fewer than two folds.
    """
    source, output = Path(source), Path(output)
    if not source.exists():
        msg = (
            f"{source}: there is no such file or folder; give the published archive or the folder that comes out of it"
        )
        raise DataError(msg)
    if link and not source.is_dir():
        msg = f"{source}: got link for an archive; allowed is a folder; extract it first or leave out link"
        raise SpecError(msg)
    with appearing_at_once(output) as draft:
        if source.is_dir():
            conversion = _convert_folder(source, draft, folds=folds, seed=seed, put=_link if link else shutil.copyfile)
        else:
            extracted = draft / ".extracted"
            extract_archive(source, extracted)
            conversion = _convert_folder(extracted, draft, folds=folds, seed=seed, put=os.replace)
            shutil.rmtree(extracted)
    return conversion


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.hippocampus", description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="Task04_Hippocampus.tar, or the folder that comes out of it")
    parser.add_argument("--output", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--folds", type=int, default=4, help="number of folds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=TABLE_SEED, help="seed of folds and split (default: %(default)s)")
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--copy", action="store_true", help="copy the files (default)")
    files.add_argument("--link", action="store_true", help="make symbolic links to the files of a source folder")
    options = parser.parse_args(arguments)
    try:
        conversion = convert(options.source, options.output, folds=options.folds, seed=options.seed, link=options.link)
    except MedSegDiffError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    sizes = ", ".join(f"{len(conversion.split[part])} {part}" for part in PARTS)
    print(f"{options.output}: kept {len(conversion.kept)} pairs ({sizes}), {len(conversion.misfits)} misfits")
    for misfit in conversion.misfits:
        print(f"  {misfit.case}: {misfit.reason}")
    return 0


def _convert_folder(
    source: Path, draft: Path, *, folds: int, seed: int, put: Callable[[Path, Path], object]
) -> Conversion:
    root = _find_root(source)
    pairing = pair_files(root / IMAGES, root / LABELS)
    misfits = _not_one_pair(pairing)
    kept = []
    (draft / IMAGES).mkdir()
    (draft / LABELS).mkdir()
    for case, files in tqdm(pairing.pairs.items(), desc="checking pairs", unit="pair", disable=None):
        try:
            check_pair(*files, num_classes=len(CLASSES))
        except DataError as error:
            # Paths in the source's own terms: that of an extracted archive is gone afterwards.
            misfits.append(Misfit(case, one_line(error).replace(f"{root}{os.sep}", "")))
            continue
        for path in files:
            put(path, draft / path.parent.name / path.name)
        kept.append(case)
    if not kept:
        first = f", for instance {misfits[0].case}: {misfits[0].reason}" if misfits else ""
        msg = (
            f"{source}: got no sound pair and {len(misfits)} misfits{first}; allowed are files of the same names in "
            f"{IMAGES} and {LABELS}; check the source"
        )
        raise DataError(msg)
    misfits.sort(key=lambda misfit: misfit.case)
    write_json(draft / MISFITS_FILE, {"misfits": [asdict(misfit) for misfit in misfits]})
    split = _write_splits(draft / "splits", kept, folds=folds, seed=seed)
    _write_dataset(draft, {case: pairing.pairs[case] for case in kept}, split)
    return Conversion(tuple(kept), tuple(misfits), split)


def _find_root(source: Path) -> Path:
    """The folder that holds images and labels: the source itself or a folder directly in it."""
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    for root in (source, *folders):
        if (root / IMAGES).is_dir() and (root / LABELS).is_dir():
            return root
    msg = f"{source}: got no folders {IMAGES} and {LABELS} in it; allowed is the published layout; check the source"
    raise DataError(msg)


def _not_one_pair(pairing: Pairing) -> list[Misfit]:
    images = pairing.images_without_label.items()
    labels = pairing.labels_without_image.items()
    return [
        *(Misfit(case, f"{IMAGES}/{path.name}: an image without a label") for case, path in images),
        *(Misfit(case, f"{LABELS}/{path.name}: a label without an image") for case, path in labels),
        *(Misfit(case, f"{_short(files)}: several files of one case") for case, files in pairing.repeated.items()),
    ]


def _short(files: Sequence[Path]) -> str:
    return ", ".join(f"{path.parent.name}/{path.name}" for path in files)


def _write_splits(folder: Path, cases: Sequence[str], *, folds: int, seed: int) -> Split:
    write_folds(folder / "folds.json", kfold(cases, folds=folds, seed=seed), name="hippocampus_folds", seed=seed)
    split = _table_split(cases) if seed == TABLE_SEED else None
    split = split or proportional(cases, seed=seed)
    name = _split_name(split)
    write_split(folder / f"{name}.json", split, name=name, seed=seed)
    return split


def _table_split(cases: Sequence[str]) -> Split | None:
    """The split of the tables when all of its cases are here; the other cases belong to no part of it."""
    split = read_split(TABLE_SPLIT) if TABLE_SPLIT.is_file() else {}
    named = {name for names in split.values() for name in names}
    if not named or not named <= set(cases):
        return None
    if len(named) < len(cases):
        logger.info("%d cases belong to no part of the split of the tables", len(cases) - len(named))
    return split


def _split_name(split: Split) -> str:
    return "_".join(["hippocampus", *(str(len(split[part])) for part in PARTS)])


def _write_dataset(folder: Path, pairs: dict[str, tuple[Path, Path]], split: Split) -> None:
    """The description that the Decathlon ships with each task, without its unlabelled test images."""
    content = {
        "name": "Hippocampus",
        "description": "Left and right hippocampus in T1-weighted MR, anterior and posterior part",
        "reference": "Vanderbilt University Medical Center; Medical Segmentation Decathlon, Task04",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in enumerate(CLASSES)},
        "numTraining": len(pairs),
        "numTest": 0,
        "training": [
            {"image": f"./{IMAGES}/{image.name}", "label": f"./{LABELS}/{label.name}"}
            for image, label in pairs.values()
        ],
        "test": [],
        "splits": {DEFAULT_SPLIT_KEY: f"splits/{_split_name(split)}.json", FOLDS_KEY: "splits/folds.json"},
    }
    write_json(folder / DATASET_FILE, content)


def _link(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
