"""Vaihingen, the central building in aerial images: pairs of pictures to a checked folder as SegDiff uses them.

    python -m data_prep.vaihingen SOURCE --output DIR

SOURCE is a folder, or an archive of one, of images and masks in any layout where names tell them apart, such as
`building_1.tif` with `building_mask_1.tif`, or `images/1.png` with `masks/1.png`; masks of all buildings
(`building_mask_all_1.tif`) are left alone. Images are resized to 256 x 256 by nearest neighbour, masks bilinearly and
thresholded at one half (`--size`). In the order of their names as text (1, 10, 100, 101, …), the first 100 cases are
for training and the other 68 are the test part; a tenth of the 100 is our validation part, where SegDiff's release
chooses its checkpoint on the test part.

Rottensteiner et al., ISPRS benchmark (2012); crops of 168 buildings by Marcos et al., Learning deep structured active
contours end-to-end, CVPR 2018.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from data_prep.conversion import About, Conversion
from data_prep.pairing import pairs_by_name
from data_prep.picture_sets import convert_pairs
from data_prep.settings import Settings, SplitSettings, command_parser, run_command
from data_prep.splits import Splits, default_splits

logger = logging.getLogger(__name__)

ABOUT = About(
    name="vaihingen",
    description="The central building in aerial images of Vaihingen",
    reference="ISPRS Vaihingen benchmark, provided by the DGPF; crops by Marcos et al. 2018",
    licence="as the ISPRS states",
    modalities=("aerial image, grey",),
    classes=("background", "building"),
)
DEFAULTS = Settings(channels=3, size=256)
TRAINING, TEST = 100, 68
# Masks of every building in the crop, beside those of the central one.
ALL_BUILDINGS = "mask_all"


def convert(source: str | Path, output: str | Path, *, settings: Settings = DEFAULTS) -> Conversion:
    """Convert the buildings of Vaihingen; arguments and errors as `convert_pictures`."""
    return convert_pairs(
        source,
        output,
        about=ABOUT,
        pairs=partial(pairs_by_name, leave_out=ALL_BUILDINGS),
        settings=settings,
        split=segdiff_splits,
        image_filter="nearest",
        mask_filter="bilinear",
    )


def segdiff_splits(parts: Mapping[str, str | None], settings: SplitSettings) -> Splits:
    """The first 100 cases for training and the rest for test; the default split where there are no more than 100."""
    cases = sorted(parts)
    if len(cases) != TRAINING + TEST:
        logger.warning("got %d cases where the paper has %d", len(cases), TRAINING + TEST)
    if len(cases) <= TRAINING:
        return default_splits(parts, settings)
    return default_splits({case: "training" if k < TRAINING else "test" for k, case in enumerate(cases)}, settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    return run_command(convert, command_parser("vaihingen", __doc__, DEFAULTS), arguments)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
