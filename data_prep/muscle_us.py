"""Muscle ultrasound: folders of grey images and masks to a checked folder of PNG pairs.

    python -m data_prep.muscle_us SOURCE --output DIR [--structure aponeurosis]

SOURCE is a folder, or an archive of one, with images and masks in any layout where folder or file names tell them
apart (`images/` and `masks/`, `image_train/` and `mask_train/`, `a.png` and `a_mask.png`, …) and a pair has one name.
Folders called train, val and test are the parts of the publication: 2531, 666 and 713 images in the recycling paper.
  `--structure muscle` (default): cross-sections of muscles of Marzola et al., Deep learning segmentation of transverse
    musculoskeletal ultrasound images for neuromuscular disease assessment, Computers in Biology and Medicine 135
    (2021); data at https://data.mendeley.com/datasets/3jykz7wz8d/1.
  `--structure aponeurosis`: aponeuroses of leg muscles of DL_Track (Ritsche et al., Apache-2.0).
Of the 160 images of DL_Track that our tables are on, the split is theirs: 112, 16 and 32.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data_prep.conversion import About, Conversion
from data_prep.pairing import pairs_by_name
from data_prep.picture_sets import convert_pairs
from data_prep.settings import Settings, command_parser, run_command
from data_prep.splits import BUNDLES, default_splits

STRUCTURES = {
    "muscle": About(
        name="muscle_us",
        description="Cross-sections of arm and leg muscles in transverse ultrasound",
        reference="Marzola et al. 2021, https://data.mendeley.com/datasets/3jykz7wz8d/1",
        licence="as the repository of the data states",
        modalities=("ultrasound",),
        classes=("background", "muscle"),
    ),
    "aponeurosis": About(
        name="muscle_us",
        description="Aponeuroses of leg muscles in ultrasound",
        reference="DL_Track, Ritsche et al.",
        licence="Apache-2.0",
        modalities=("ultrasound",),
        classes=("background", "aponeurosis"),
    ),
}
DEFAULTS = Settings(channels=1)
TABLE_SPLIT = BUNDLES / "muscle_us" / "configs" / "split_112_16_32.json"


def convert(
    source: str | Path, output: str | Path, *, structure: str = "muscle", settings: Settings = DEFAULTS
) -> Conversion:
    """Convert muscle ultrasound; other arguments and errors as `convert_pictures`.

    Args:
        source: folder or archive.
        output: new or empty folder.
        structure: what the masks show, a key of `STRUCTURES`.
        settings: what the user chose.
    """
    return convert_pairs(
        source,
        output,
        about=STRUCTURES[structure],
        pairs=pairs_by_name,
        settings=settings,
        split=partial(default_splits, table=TABLE_SPLIT),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    parser = command_parser("muscle_us", __doc__, DEFAULTS)
    parser.add_argument(
        "--structure", choices=tuple(STRUCTURES), default="muscle", help="what the masks show (default: %(default)s)"
    )
    return run_command(convert, parser, arguments)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
