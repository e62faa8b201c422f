"""Glioma in four MR modalities, BraTS 2018 to 2021 and 2023: published folder or archive to a checked data set.

    python -m data_prep.brats SOURCE --output DIR [--regions]

SOURCE is a folder, or an archive (zip, tar, tar.gz) of one, with the training cases of one year at any depth:
  2018, 2019: `HGG/Brats18_2013_2_1/Brats18_2013_2_1_t1ce.nii.gz`, and LGG;
  2020: `BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz`; the segmentation of case 355 is found under the name
    with which it was shipped, `W39_1998.09.19_Segm.nii`;
  2021: `BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz`, also as the tars that Kaggle ships in a zip;
  2023: `BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1c.nii.gz`, with -t1n, -t2w, -t2f and -seg.
An image of the result is a list of four files, t1, t1ce, t2 and flair, whatever the year calls them. Cases without a
segmentation are counted and left out where they belong to the validation or test part of the challenge.

By default the label is the whole tumour, 1. With --regions one label map holds the three nested regions of the
challenge: 1 edema, 2 tumour core that does not enhance, 3 enhancing tumour; so the whole tumour is 1 and above, the
tumour core 2 and above, the enhancing tumour 3. The published values are 1, 2 and 4, and of 2023 1, 2 and 3.

Of the 1251 cases of 2021 in the order of their names, the first 938 are for training, the next 31 for validation and
the last 282 are the test part, as in the recycling paper; of other numbers of cases the same shares. Cases that turn
out to be misfits keep their place in this order. An interrupted conversion that is run again goes on where it stopped.

Baid et al., The RSNA-ASNR-MICCAI BraTS 2021 benchmark, arXiv:2107.02314 (2021).
"""

from __future__ import annotations

import filecmp
import logging
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from data_prep.conversion import About, Conversion, Misfit
from data_prep.settings import VolumeSettings, run_command, volume_parser
from data_prep.volume_sets import FoundVolumes, convert_volumes
from data_prep.volumes import VolumeCase
from medsegdiff.data.splits import PARTS

MODALITIES = ("t1", "t1ce", "t2", "flair")
SEGMENTATION = "seg"
# What the years call the same: 2018 to 2021, and since 2023.
KINDS = {
    **dict(zip(MODALITIES, MODALITIES, strict=True)),
    **dict(zip(("t1n", "t1c", "t2w", "t2f"), MODALITIES, strict=True)),
    SEGMENTATION: SEGMENTATION,
}
RENAMED_KINDS = frozenset(("t1n", "t1c", "t2w", "t2f"))
CLASSES = ("background", "whole tumor")
REGION_CLASSES = ("background", "edema", "non-enhancing tumor core", "enhancing tumor")
REGIONS = {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
# Published value -> class number, for the regions: necrosis and edema change places, so that the regions are nested.
REGION_VALUES = {0: 0, 1: 2, 2: 1, 4: 3}
RENAMED_REGION_VALUES = {0: 0, 1: 2, 2: 1, 3: 3}
PAPER_SIZES = {"training": 938, "validation": 31, "test": 282}
UNLABELLED = "without label"

_FILE = re.compile(rf"(?P<case>brats.*?)[-_](?P<kind>{'|'.join(KINDS)})\.nii(\.gz)?", re.IGNORECASE)
_MISNAMED = re.compile(r".*_segm\.nii(\.gz)?", re.IGNORECASE)
# In "ValidationData", not in "latest".
_HELD_BACK = re.compile(r"(?<![a-z])(valid|test)", re.IGNORECASE)

# Kind of file ("t1", …, "seg") -> names of the files of this kind in the source.
CaseFiles = dict[str, list[str]]


def convert(
    source: str | Path, output: str | Path, *, regions: bool = False, settings: VolumeSettings | None = None
) -> Conversion:
    """Convert BraTS; other arguments and errors as `convert_volumes`.

    Args:
        source: folder or archive.
        output: new or empty folder.
        regions: three nested regions instead of the whole tumour.
        settings: what the user chose.
    """
    about = About(
        name="brats_regions" if regions else "brats",
        description="Glioma in pre-operative MR: "
        + ("edema, tumor core, enhancing tumor" if regions else "whole tumor"),
        reference="Brain tumor segmentation challenge; Baid et al. 2021, arXiv:2107.02314",
        licence="as the BraTS challenge of the year states",
        modalities=MODALITIES,
        classes=REGION_CLASSES if regions else CLASSES,
    )
    return convert_volumes(
        source,
        output,
        about=about,
        find=partial(_find, regions=regions),
        settings=settings or VolumeSettings(),
        more={"regions": REGIONS} if regions else None,
    )


def paper_parts(cases: Sequence[str]) -> dict[str, str]:
    """The part of each case: by the order of the names, in the sizes of the paper or, of other numbers, its shares."""
    total = sum(PAPER_SIZES.values())
    validation = max(1, round(len(cases) * PAPER_SIZES["validation"] / total))
    test = max(1, round(len(cases) * PAPER_SIZES["test"] / total))
    training = max(0, len(cases) - validation - test)
    parts = [PARTS[0]] * training + [PARTS[1]] * validation + [PARTS[2]] * test
    return dict(zip(sorted(cases), parts, strict=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    parser = volume_parser("brats", __doc__)
    parser.add_argument("--regions", action="store_true", help="three nested regions instead of the whole tumor")
    return run_command(convert, parser, arguments, settings_type=VolumeSettings)


def _find(files: Mapping[str, Path], *, regions: bool) -> FoundVolumes:
    groups = _group(files)
    held_back = {
        case
        for case, kinds in groups.items()
        if not kinds[SEGMENTATION] and any(_HELD_BACK.search(name) for names in kinds.values() for name in names)
    }
    labelled = [case for case in groups if case not in held_back]
    parts = paper_parts(labelled)
    cases, misfits = [], []
    for case in labelled:
        found = _one_of_each(case, groups[case], files)
        if isinstance(found, Misfit):
            misfits.append(found)
            continue
        values = _values(groups[case], regions=regions)
        images = {modality: found[modality] for modality in MODALITIES}
        cases.append(VolumeCase(name=case, images=images, label=found[SEGMENTATION], values=values, part=parts[case]))
    left_out = {UNLABELLED: len(held_back)} if held_back else {}
    return FoundVolumes(cases=cases, misfits=misfits, left_out=left_out)


def _group(files: Mapping[str, Path]) -> dict[str, CaseFiles]:
    """The files of each case, in the order of the names."""
    groups: dict[str, CaseFiles] = defaultdict(lambda: defaultdict(list))
    misnamed: dict[str, list[str]] = defaultdict(list)
    for name in files:
        path = PurePosixPath(name)
        if match := _FILE.fullmatch(path.name):
            groups[match["case"]][KINDS[match["kind"].lower()]].append(name)
        elif _MISNAMED.fullmatch(path.name):
            misnamed[path.parent.name].append(name)
    for case, names in misnamed.items():
        if case in groups and not groups[case][SEGMENTATION]:
            groups[case][SEGMENTATION] = names
    return dict(sorted(groups.items()))


def _one_of_each(case: str, kinds: CaseFiles, files: Mapping[str, Path]) -> dict[str, Path] | Misfit:
    """The file of each kind; copies of one file, as Kaggle ships of two cases, count as one."""
    found, missing = {}, []
    for kind in (*MODALITIES, SEGMENTATION):
        paths = [files[name] for name in kinds[kind]]
        if not paths:
            missing.append(kind)
        elif any(not filecmp.cmp(paths[0], other, shallow=False) for other in paths[1:]):
            return Misfit(case, f"{', '.join(kinds[kind])}: several files of one case")
        else:
            found[kind] = paths[0]
    if missing:
        there = next(names[0] for names in kinds.values() if names)
        return Misfit(case, f"{PurePosixPath(there).parent}: a case without {', '.join(missing)}")
    return found


def _values(kinds: CaseFiles, *, regions: bool) -> dict[int, int]:
    """Class number of each value of a label, which the year of the case decides."""
    match = _FILE.fullmatch(PurePosixPath(kinds[MODALITIES[0]][0]).name)
    renamed = match is not None and match["kind"].lower() in RENAMED_KINDS
    values = RENAMED_REGION_VALUES if renamed else REGION_VALUES
    return values if regions else {value: min(number, 1) for value, number in values.items()}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
