"""Fifteen abdominal organs in CT, AMOS: published folder or archive to a checked data set.

    python -m data_prep.amos SOURCE --output DIR

SOURCE is `amos22.zip`, the folder that comes out of it, or a folder that holds either: `imagesTr` and `labelsTr` (and
`imagesVa` and `labelsVa`, `imagesTs`) with `amos_0001.nii.gz`, …, beside `dataset.json`. Numbers up to 500 are CT; the
MR images, and those of the test part, whose labels are not in the paper's data, are counted and left out.

The published training cases are for training. Of the published validation list in the order of `dataset.json` (of the
names where it has none), the first tenth is for validation and the rest is the test part, 200, 10 and 90 cases in the
recycling paper. Cases that turn out to be misfits keep their place in this order. An interrupted conversion that is
run again goes on where it stopped.

Ji et al., AMOS: a large-scale abdominal multi-organ benchmark for versatile medical image segmentation, NeurIPS 2022,
arXiv:2206.08023; data at https://zenodo.org/records/7262581.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.conversion import About, Conversion
from data_prep.settings import VolumeSettings, run_command, volume_parser
from data_prep.volume_folders import common_root, paired_volumes
from data_prep.volume_sets import FoundVolumes, convert_volumes
from medsegdiff.data.datalist import DATASET_FILE
from medsegdiff.data.reading import case_name, image_suffix

logger = logging.getLogger(__name__)

ABOUT = About(
    name="amos_ct",
    description="Fifteen abdominal organs in CT",
    reference="AMOS, Ji et al. 2022, arXiv:2206.08023",
    licence="as https://zenodo.org/records/7262581 states",
    modalities=("CT",),
    classes=(
        "background",
        "spleen",
        "right kidney",
        "left kidney",
        "gall bladder",
        "oesophagus",
        "liver",
        "stomach",
        "aorta",
        "postcava",
        "pancreas",
        "right adrenal gland",
        "left adrenal gland",
        "duodenum",
        "bladder",
        "prostate or uterus",
    ),
)
VALIDATION_FOLDERS = ("imagesVa", "labelsVa")
TEST_FOLDER = "imagesTs"
LAST_CT = 500
# Of the published validation list.
VALIDATION_SHARE = 0.1
MR, OF_TEST_PART = "MR", "CT of the published test part"

_NAME = re.compile(r"amos_(?P<number>\d+)", re.IGNORECASE)


def convert(source: str | Path, output: str | Path, *, settings: VolumeSettings | None = None) -> Conversion:
    """Convert the CT images of AMOS; arguments and errors as `convert_volumes`."""
    return convert_volumes(source, output, about=ABOUT, find=_find, settings=settings or VolumeSettings())


def validation_parts(cases: Sequence[str]) -> dict[str, str]:
    """The part of each case of the published validation list: the first tenth, at least one, and the others."""
    validation = max(1, int(VALIDATION_SHARE * len(cases)))
    return {case: "validation" if index < validation else "test" for index, case in enumerate(cases)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    return run_command(convert, volume_parser("amos", __doc__), arguments, settings_type=VolumeSettings)


def _find(files: Mapping[str, Path]) -> FoundVolumes:
    modality = ABOUT.modalities[0]
    training, misfits = paired_volumes(files, modality=modality, part="training")
    images, labels = VALIDATION_FOLDERS
    held_out, held_out_misfits = paired_volumes(files, modality=modality, images=images, labels=labels)
    names = [*(case.name for case in held_out), *(misfit.case for misfit in held_out_misfits)]
    parts = validation_parts([name for name in _published_order(files, names) if not _is_mr(name)])
    cases = [*training, *(replace(case, part=parts.get(case.name)) for case in held_out)]
    misfits = [*misfits, *held_out_misfits]
    test = _test_cases(files)
    everything = [*(case.name for case in cases), *(misfit.case for misfit in misfits), *test]
    left_out = {MR: sum(map(_is_mr, everything)), OF_TEST_PART: sum(not _is_mr(name) for name in test)}
    return FoundVolumes(
        cases=[case for case in cases if not _is_mr(case.name)],
        misfits=[misfit for misfit in misfits if not _is_mr(misfit.case)],
        left_out={kind: number for kind, number in left_out.items() if number},
    )


def _is_mr(case: str) -> bool:
    match = _NAME.fullmatch(case)
    return match is not None and int(match["number"]) > LAST_CT


def _test_cases(files: Mapping[str, Path]) -> list[str]:
    root = common_root(files, TEST_FOLDER)
    folder = root / TEST_FOLDER if root else None
    return [case_name(path) for path in files.values() if path.parent == folder and image_suffix(path)]


def _published_order(files: Mapping[str, Path], cases: Sequence[str]) -> list[str]:
    """The cases in the order of `dataset.json`; those that it does not name, or all without it, by their names."""
    root = common_root(files, *VALIDATION_FOLDERS)
    path = root / DATASET_FILE if root else None
    listed: list[str] = []
    if path is not None and path.is_file():
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["validation"]
            listed = [case_name(entry["image"] if isinstance(entry, dict) else entry) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: has no validation list (%s: %s)", path, type(error).__name__, error)
    order = {case: index for index, case in enumerate(listed)}
    unlisted = [case for case in cases if case not in order]
    if cases and unlisted:
        logger.warning(
            "%d of %d validation cases are in no published list: in the order of names", len(unlisted), len(cases)
        )
    return sorted(cases, key=lambda case: (order.get(case, len(order)), case))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
