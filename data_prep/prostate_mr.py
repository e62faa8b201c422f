"""Eight structures in male pelvic MR of seven institutions: published folder or archive to a checked data set.

    python -m data_prep.prostate_mr SOURCE --output DIR [--institutions FILE]

SOURCE is the folder that its publishers describe, `institution.txt` beside `data/` with `001000_img.nii` and
`001000_mask.nii`, …, or `data.zip` in its place, or an archive of all of it. Files may be .nii or .nii.gz, at any
depth.

How a line of `institution.txt` is written is not documented. Read are lines of a case and its institution, apart by
spaces, tabs, commas, semicolons, colons or equals signs: `001000 1`, `001000_img.nii, London`; a first line without a
case is a heading. Where the published file differs, give such an index with --institutions. Cases of no known
institution are misfits.

Of each institution, in the order of the names, the first two cases are for validation; of its n cases those from there
up to number int(0.75 n) - 2 are for training, and the rest is the test part: 411, 14 and 164 cases in the recycling
paper. Cases that turn out to be misfits keep their place in this order. An interrupted conversion that is run again
goes on where it stopped.

Li et al., Prototypical few-shot segmentation for cross-institution male pelvic structures with spatial registration,
arXiv:2209.05160 (2022); data at https://zenodo.org/records/7013610.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from data_prep.conversion import About, Conversion, Misfit
from data_prep.settings import VolumeSettings, run_command, volume_parser
from data_prep.volume_sets import FoundVolumes, convert_volumes
from data_prep.volumes import VolumeCase
from medsegdiff.errors import DataError

logger = logging.getLogger(__name__)

ABOUT = About(
    name="prostate_mr",
    description="Eight structures in T2-weighted male pelvic MR of seven institutions",
    reference="Li et al. 2022, arXiv:2209.05160",
    licence="as https://zenodo.org/records/7013610 states",
    modalities=("T2",),
    classes=(
        "background",
        "bladder",
        "bone",
        "obturator internus",
        "transition zone",
        "central gland",
        "rectum",
        "seminal vesicle",
        "neurovascular bundle",
    ),
)
# The publishers' description spells it in the second way.
INDEX_NAMES = ("institution.txt", "instiution.txt")
VALIDATION_CASES = 2
TRAINING_SHARE = 0.75

_FILE = re.compile(r"(?P<case>.+)_(?P<kind>img|mask)\.nii(\.gz)?", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s,;:=]+")


def convert(
    source: str | Path,
    output: str | Path,
    *,
    institutions: str | Path | None = None,
    settings: VolumeSettings | None = None,
) -> Conversion:
    """Convert male pelvic MR; other arguments and errors as `convert_volumes`.

    Args:
        source: folder or archive.
        output: new or empty folder.
        institutions: file with a line for each case; None for `institution.txt` of the source.
        settings: what the user chose.
    """
    find = partial(_find, index=Path(institutions) if institutions is not None else None)
    return convert_volumes(source, output, about=ABOUT, find=find, settings=settings or VolumeSettings())


def read_institutions(path: Path, cases: Collection[str]) -> dict[str, str]:
    """The institution of each of these cases that the file names.

    Args:
        path: text with a line of case and institution for each case.
        cases: names of cases.

    Raises:
        DataError: a file that cannot be read, that names none of the cases, or one of them with two institutions.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        msg = f"{path}: cannot be read ({error}); allowed is text with a line CASE INSTITUTION for each case"
        raise DataError(msg) from error
    found: dict[str, str] = {}
    strangers = []
    for line in filter(None, map(str.strip, lines)):
        case, *words = _BETWEEN.split(line)
        match = _FILE.fullmatch(PurePosixPath(case).name)
        case, institution = match["case"] if match else case, " ".join(words)
        if case not in cases or not institution:
            strangers.append(line)
        elif found.setdefault(case, institution) != institution:
            msg = f"{path}: got {case} in {found[case]} and in {institution}; allowed is one institution; mend the line"
            raise DataError(msg)
    if not found:
        first = f", but {strangers[0]!r} in the first" if strangers else ""
        msg = (
            f"{path}: got no line of one of the {len(cases)} cases{first}; allowed are lines such as "
            f"'{min(cases, default='001000')} 1'; give an index of this form with --institutions"
        )
        raise DataError(msg)
    if len(strangers) > 1:  # one may be a heading
        logger.warning("%s: %d lines name no case that is here", path, len(strangers))
    return found


def paper_parts(institutions: Mapping[str, str]) -> dict[str, str]:
    """The part of each case, from the institutions of all of them."""
    members = defaultdict(list)
    for case in sorted(institutions):
        members[institutions[case]].append(case)
    parts = {}
    for cases in members.values():
        test = max(VALIDATION_CASES, int(TRAINING_SHARE * len(cases)) - 2)
        for index, case in enumerate(cases):
            parts[case] = "validation" if index < VALIDATION_CASES else "training" if index < test else "test"
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    parser = volume_parser("prostate_mr", __doc__)
    parser.add_argument("--institutions", type=Path, help="index of the cases (default: institution.txt in SOURCE)")
    return run_command(convert, parser, arguments, settings_type=VolumeSettings)


def _find(files: Mapping[str, Path], *, index: Path | None) -> FoundVolumes:
    groups: dict[str, dict[str, list[Path]]] = defaultdict(lambda: {"img": [], "mask": []})
    for path in files.values():
        if match := _FILE.fullmatch(path.name):
            groups[match["case"]][match["kind"].lower()].append(path)
    if not groups:
        return FoundVolumes()
    institutions = read_institutions(index or _index_of(files), groups)
    parts = paper_parts(institutions)
    cases, misfits = [], []
    for case, group in sorted(groups.items()):
        images, labels = group["img"], group["mask"]
        paths = ", ".join(map(str, images + labels))
        if len(images) > 1 or len(labels) > 1:
            misfits.append(Misfit(case, f"{paths}: several files of one case"))
        elif not labels:
            misfits.append(Misfit(case, f"{paths}: an image without a mask"))
        elif not images:
            misfits.append(Misfit(case, f"{paths}: a mask without an image"))
        elif case not in institutions:
            misfits.append(Misfit(case, f"{paths}: a case of no institution in the index"))
        else:
            modality = ABOUT.modalities[0]
            notes = {"institution": institutions[case]}
            cases.append(
                VolumeCase(name=case, images={modality: images[0]}, label=labels[0], part=parts[case], notes=notes)
            )
    return FoundVolumes(cases=cases, misfits=misfits)


def _index_of(files: Mapping[str, Path]) -> Path:
    found = [path for path in files.values() if path.name.lower() in INDEX_NAMES]
    if len(found) != 1:
        msg = (
            f"got {len(found) or 'no'} {INDEX_NAMES[0]}; allowed is one in the source, of lines CASE INSTITUTION; name "
            "it with --institutions"
        )
        raise DataError(msg)
    return found[0]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
