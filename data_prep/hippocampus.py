"""The hippocampus task of the Medical Segmentation Decathlon: published folder or archive to a checked data set.

    python -m data_prep.hippocampus SOURCE --output DIR

SOURCE is `Task04_Hippocampus.tar`, the folder that comes out of it, or any folder or archive (tar, tar.gz, zip) with
`imagesTr` and `labelsTr`. DIR gets these two folders, `dataset.json`, `splits/` and `misfits.json`. An interrupted
conversion that is run again goes on where it stopped.

Simpson et al., A large annotated medical image dataset for the development and evaluation of segmentation algorithms,
arXiv:1902.09063 (2019); data at http://medicaldecathlon.com, CC BY-SA 4.0.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from data_prep.conversion import About, Conversion
from data_prep.settings import VolumeSettings, run_command, volume_parser
from data_prep.splits import BUNDLES, default_splits
from data_prep.volume_folders import paired_volumes
from data_prep.volume_sets import FoundVolumes, convert_volumes

ABOUT = About(
    name="hippocampus",
    description="Left and right hippocampus in T1-weighted MR, anterior and posterior part",
    reference="Vanderbilt University Medical Center; Medical Segmentation Decathlon, Task04",
    licence="CC-BY-SA 4.0",
    modalities=("MRI",),
    classes=("background", "Anterior", "Posterior"),
)
# The split of our tables: 200 of the 260 published cases. Absent where the package is installed without the bundles.
TABLE_SPLIT = BUNDLES / "hippocampus" / "configs" / "split_144_16_40.json"


def convert(source: str | Path, output: str | Path, *, settings: VolumeSettings | None = None) -> Conversion:
    """Convert the hippocampus task; arguments and errors as `convert_volumes`.

    With seed 0 the split of the tables is taken where all of its cases are, else one of the seed.
    """
    return convert_volumes(
        source,
        output,
        about=ABOUT,
        find=_find,
        settings=settings or VolumeSettings(),
        split=partial(default_splits, table=TABLE_SPLIT),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    return run_command(convert, volume_parser("hippocampus", __doc__), arguments, settings_type=VolumeSettings)


def _find(files: Mapping[str, Path]) -> FoundVolumes:
    cases, misfits = paired_volumes(files, modality="MRI")
    return FoundVolumes(cases=cases, misfits=misfits)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
