"""Any folder of images and masks to a checked folder of PNG pairs.

    python -m data_prep.image_pairs SOURCE --output DIR --name TASK --classes background lesion

SOURCE is a folder or an archive of one. Which files belong together is found by their names (`images/a.png` with
`masks/a.png` or `a_mask.png`, …) or said by patterns of their paths below SOURCE, where {case} stands for the name:
  --image-pattern "**/{case}_gray.*" --mask-pattern "**/{case}_gt_mask.*"
  --image-pattern "{case}/images/*.png" --mask-pattern "{case}/masks/*.png"      several masks of a case are united
With two classes masks are binary: 0 and 1, or 0 and 255 with what lies between thresholded at half. With more, their
values are the class numbers. Other values are said by --values, for instance both lungs, 1 and 2, as one class and the
heart as none: --values 0=0 1=1 2=1 3=0. Folders called train, val and test are taken as these parts.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from data_prep.conversion import About, Conversion
from data_prep.pairing import Files, pairs_by_name, pairs_by_pattern
from data_prep.picture_sets import convert_pairs
from data_prep.pictures import Pixels, load_mask
from data_prep.settings import Settings, command_parser, run_command
from medsegdiff.errors import SpecError

DEFAULTS = Settings(channels=1)
DEFAULT_CLASSES = ("background", "foreground")


def convert(
    source: str | Path,
    output: str | Path,
    *,
    name: str = "pairs",
    classes: Sequence[str] = DEFAULT_CLASSES,
    values: Mapping[int, int] | Iterable[tuple[int, int]] | None = None,
    image_pattern: Sequence[str] = (),
    mask_pattern: Sequence[str] = (),
    settings: Settings = DEFAULTS,
) -> Conversion:
    """Convert a folder of pairs; other arguments and errors as `convert_pictures`.

    Args:
        source: folder or archive.
        output: new or empty folder.
        name: of the data set.
        classes: names of the classes, background first.
        values: class number of every value of a mask; None for binary masks, or class numbers with several classes.
        image_pattern: see `pairs_by_pattern`; with `mask_pattern`, or neither.
        mask_pattern: likewise.
        settings: what the user chose.

    Raises:
        SpecError: one kind of pattern without the other, fewer than two classes, or values of other classes.
    """
    if bool(image_pattern) != bool(mask_pattern):
        msg = "got patterns for images or for masks only; allowed are both or neither; give the other as well"
        raise SpecError(msg)
    if len(classes) < 2:
        msg = f"got the classes {', '.join(classes)}; allowed are 2 or more, the background first; name them"
        raise SpecError(msg)
    numbers = dict(values) if values is not None else None
    unknown = sorted({number for number in (numbers or {}).values() if not 0 <= number < len(classes)})
    if unknown:
        msg = (
            f"got values for the classes {', '.join(map(str, unknown))}; allowed are 0 to {len(classes) - 1}; name "
            "more --classes or correct --values"
        )
        raise SpecError(msg)
    if numbers is None and len(classes) > 2:
        numbers = {number: number for number in range(len(classes))}

    def load_label(files: Files, image: Pixels) -> tuple[Pixels, tuple[str, ...]]:
        return load_mask(files.masks, values=numbers)

    pairs = partial(pairs_by_pattern, images=image_pattern, masks=mask_pattern) if image_pattern else pairs_by_name
    about = About(
        name=name,
        description=f"Pairs of images and masks: {', '.join(classes[1:])}",
        reference="as the source states",
        licence="as the source states",
        modalities=("grey",),
        classes=tuple(classes),
    )
    return convert_pairs(source, output, about=about, pairs=pairs, load_label=load_label, settings=settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    parser = command_parser("image_pairs", __doc__, DEFAULTS)
    parser.add_argument("--name", default="pairs", help="of the data set (default: %(default)s)")
    parser.add_argument("--classes", nargs="+", default=DEFAULT_CLASSES, help="names of classes, background first")
    parser.add_argument(
        "--values", nargs="+", type=_value, metavar="VALUE=CLASS", help="class number of each value of the masks"
    )
    parser.add_argument("--image-pattern", nargs="+", default=(), help="paths of images")
    parser.add_argument("--mask-pattern", nargs="+", default=(), help="paths of masks")
    return run_command(convert, parser, arguments)


def _value(text: str) -> tuple[int, int]:
    value, _, number = text.partition("=")
    return int(value), int(number)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
