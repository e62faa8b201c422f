"""MoNuSeg, nuclei in H&E stained tissue: outlines in XML, or masks, to a checked folder of PNG pairs.

    python -m data_prep.monuseg SOURCE --output DIR

SOURCE is a folder, or an archive of one, with any of
  the published tiles and their outlines: `Tissue Images/CASE.tif` and `Annotations/CASE.xml` for training,
    `MoNuSegTestData/CASE.tif` and `CASE.xml` for test, both below one folder;
  pictures and masks: `images/CASE.png` and `masks/CASE.png`.
Where a tile has both outlines and a mask, the outlines are taken. Tiles below a folder whose name says "test" are the
test part, 14 of them in the papers, and a tenth of the others (30 in the papers) is the validation part.

`--size 512` makes what the papers train on: images bilinear, masks nearest.

Kumar et al., A multi-organ nucleus segmentation challenge, IEEE TMI 39 (2020); data at
https://monuseg.grand-challenge.org, CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from data_prep.conversion import About, Conversion
from data_prep.pairing import OUTLINE_SUFFIX, Files, pairs_by_pattern
from data_prep.picture_sets import convert_pairs
from data_prep.pictures import Pixels, fill_polygon, load_mask
from data_prep.settings import Settings, command_parser, run_command
from data_prep.splits import BUNDLES, default_splits
from medsegdiff.errors import DataError

ABOUT = About(
    name="monuseg",
    description="Nuclei in H&E stained tissue of several organs",
    reference="Multi-organ nucleus segmentation challenge 2018",
    licence="CC BY-NC-SA 4.0",
    modalities=("H&E, grey",),
    classes=("background", "nucleus"),
)
DEFAULTS = Settings(channels=3)
# Our split of the 30 training tiles, for where the test tiles are not at hand.
TABLE_SPLIT = BUNDLES / "monuseg" / "configs" / "split_20_4_6.json"
IMAGE_PATTERNS = (
    *("**/{case}.tif", "**/{case}.tiff"),
    *("**/*image*/{case}.png", "**/*image*/{case}.jpg", "**/*image*/{case}.bmp"),
)
MASK_PATTERNS = ("**/{case}.xml", "**/*mask*/{case}.*", "**/{case}_mask.*")
# Outlines that follow the border of a tile may run this many pixels beside it.
BORDER = 1.0

Outline = list[tuple[float, float]]


def convert(source: str | Path, output: str | Path, *, settings: Settings = DEFAULTS) -> Conversion:
    """Convert MoNuSeg; arguments and errors as `convert_pictures`."""
    return convert_pairs(
        source,
        output,
        about=ABOUT,
        pairs=partial(pairs_by_pattern, images=IMAGE_PATTERNS, masks=MASK_PATTERNS),
        load_label=_load_label,
        settings=settings,
        split=partial(default_splits, table=TABLE_SPLIT),
    )


def read_outlines(path: Path) -> list[Outline]:
    """The outlines of an ImageScope annotation file: (x, y) in pixels of the tile, from its upper left corner.

    Raises:
        DataError: no XML, or a corner that has no numbers.
    """
    try:
        regions = ElementTree.parse(path).getroot().iter("Region")
        outlines = [[(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")] for region in regions]
    except (ElementTree.ParseError, KeyError, ValueError, OSError) as error:
        msg = (
            f"{path}: cannot be read as outlines ({type(error).__name__}: {error}); allowed is the XML of ImageScope, "
            "regions of vertices with X and Y; download it again"
        )
        raise DataError(msg) from error
    if not all(math.isfinite(x) and math.isfinite(y) for outline in outlines for x, y in outline):
        msg = f"{path}: got corners that are no finite numbers; allowed are pixels; download it again"
        raise DataError(msg)
    return outlines


def rasterise(outlines: Sequence[Outline], shape: tuple[int, int], *, source: Path) -> tuple[Pixels, tuple[str, ...]]:
    """Fill outlines; those of fewer than three corners or wholly outside of the tile are left out, others are cut off.

    Args:
        outlines: (x, y) in pixels.
        shape: width and height of the tile.
        source: file of the outlines, for the remark.

    Returns:
        The label, (width, height), of 0 and 1, and a remark that counts what was left out or cut off.
    """
    canvas = Image.new("L", shape)
    few = outside = cut = 0
    for outline in outlines:
        corners = np.array(outline).reshape(-1, 2)
        if len(corners) < 3:
            few += 1
        elif (corners.max(axis=0) < 0).any() or (corners.min(axis=0) > np.array(shape)).any():
            outside += 1
        else:
            cut += bool((corners < -BORDER).any() or (corners > np.array(shape) + BORDER).any())
            fill_polygon(canvas, outline, 1)
    label = np.asarray(canvas).T
    if not (few or outside or cut):
        return label, ()
    remark = (
        f"{source}: of {len(outlines)} outlines, {few} with fewer than three corners and {outside} outside of the tile "
        f"left out, {cut} cut off at its border"
    )
    return label, (remark,)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    return run_command(convert, command_parser("monuseg", __doc__, DEFAULTS), arguments)


def _load_label(files: Files, image: Pixels) -> tuple[Pixels, tuple[str, ...]]:
    path = files.masks[0]
    if path.suffix.lower() != OUTLINE_SUFFIX:
        return load_mask(files.masks)
    return rasterise(read_outlines(path), image.shape[:2], source=path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
