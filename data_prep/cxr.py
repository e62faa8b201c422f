"""Lungs in chest X-rays of Montgomery and Shenzhen: published folders to a checked folder of grey PNG pairs.

    python -m data_prep.cxr SOURCE --output DIR

SOURCE is a folder, or an archive of one, with one or both of
  Montgomery: `MontgomerySet/CXR_png/MCUCXR_*.png` with `MontgomerySet/ManualMask/leftMask/` and `rightMask/`;
  Shenzhen: `CXR_png/CHNCXR_*.png` with `mask/CHNCXR_*_mask.png`;
or both together as on Kaggle, `CXR_png/` with `masks/CHNCXR_*_mask.png` and `masks/MCUCXR_*.png`; or the files
`CASE_gray.png` with `CASE_gt_mask.png`. Both lungs are one class. Colour files are averaged to grey, as cDAL does.

cDAL's release trains its fold 0 on the 566 cases whose mask is called `_mask`, which are those of Shenzhen, and tests
on the 138 others, those of Montgomery; its folds 1 and 2 put the first and the last 138 of Shenzhen in their place.
`splits/folds.json` has these three as folds 0 to 2, and as fold 3 the cases that are in no test part of the release;
the default split is fold 0. Where the release chooses its checkpoint on the test part, ours is chosen on a tenth of the
rest. `--folds N` makes seeded folds of all cases instead.

Jaeger et al., Two public chest X-ray datasets for computer-aided screening of pulmonary diseases, Quantitative Imaging
in Medicine and Surgery 4 (2014); masks of Shenzhen by Stirenko et al. (2018).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.conversion import About, Conversion, Misfit
from data_prep.pairing import Files, Pairs, pairs_by_pattern
from data_prep.picture_sets import convert_pairs
from data_prep.settings import Settings, SplitSettings, command_parser, run_command
from data_prep.splits import Splits, default_splits
from medsegdiff.data.splits import fold_split

ABOUT = About(
    name="cxr",
    description="Lungs in chest X-rays of Montgomery County and Shenzhen",
    reference="National Library of Medicine, National Institutes of Health, Bethesda, MD, USA; Shenzhen No. 3 Hospital",
    licence="as the National Library of Medicine states",
    modalities=("X-ray",),
    classes=("background", "lung"),
)
DEFAULTS = Settings(channels=1, average=True)
MONTGOMERY = "mcucxr"
HALVES_FOLDER = "manualmask"
IMAGE_PATTERNS = ("**/CXR_png/{case}.*", "**/{case}_gray.*", "**/images/{case}.*")
MASK_PATTERNS = (
    "**/ManualMask/*Mask/{case}.*",
    "**/{case}_gt_mask.*",
    "**/mask*/{case}_mask.*",
    "**/mask*/{case}.*",
)


def convert(source: str | Path, output: str | Path, *, settings: Settings = DEFAULTS) -> Conversion:
    """Convert the chest X-rays; arguments and errors as `convert_pictures`."""
    return convert_pairs(source, output, about=ABOUT, pairs=_pairs, settings=settings, split=release_splits)


def release_splits(parts: Mapping[str, str | None], settings: SplitSettings) -> Splits:
    """The folds of cDAL's release, and its fold 0 as the split; the default ones where only one of the sets is there.

    With fewer cases than were published, the parts of Shenzhen are as large as Montgomery, at most half of Shenzhen.
    """
    montgomery = [case for case in parts if case.lower().startswith(MONTGOMERY)]
    shenzhen = sorted(parts.keys() - set(montgomery))
    swapped = min(len(montgomery), len(shenzhen) // 2)
    if settings.folds is not None or swapped == 0:
        return default_splits(parts, settings)
    ends = [shenzhen[:swapped], shenzhen[-swapped:]]
    middle = shenzhen[swapped:-swapped]
    folds = [montgomery, *ends, *([middle] if middle else [])]
    return Splits(fold_split(folds, fold=0, seed=settings.seed), folds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    return run_command(convert, command_parser("cxr", __doc__, DEFAULTS), arguments)


def _pairs(root: Path) -> Pairs:
    pairs = pairs_by_pattern(root, images=IMAGE_PATTERNS, masks=MASK_PATTERNS)
    halves = [files for files in pairs.cases if _is_one_lung(files)]
    misfits = [
        Misfit(files.case, f"{files.masks[0].relative_to(root).as_posix()}: the mask of one lung without the other")
        for files in halves
    ]
    whole = tuple(files for files in pairs.cases if files not in halves)
    return Pairs(whole, (*pairs.misfits, *misfits))


def _is_one_lung(files: Files) -> bool:
    return files.masks[0].parent.parent.name.lower() == HALVES_FOLDER and len(files.masks) != 2


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
