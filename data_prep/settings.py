"""What a user may choose for every 2-D data set, and the command line for it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.hippocampus import MISFITS_FILE
from medsegdiff.data.splits import PARTS
from medsegdiff.errors import USER_ERROR_EXIT_CODE, MedSegDiffError, SpecError, one_line

if TYPE_CHECKING:
    from data_prep.picture_sets import PictureConversion

TABLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of every converter of 2-D data; each is one of the command line.

    Attributes:
        channels: of the images, 1 (grey) or 3 (RGB).
        average: make grey of colour images by the mean of their channels instead of leaving them out.
        rescale: stretch images of more than 8 bits to 0 … 255 instead of leaving them out.
        size: width and height to resize to; None keeps what is.
        folds: number of seeded folds of all cases; None for the paper's folds, or four where it has none.
        seed: seed of folds and split.
    """

    channels: int = 1
    average: bool = False
    rescale: bool = False
    size: int | None = None
    folds: int | None = None
    seed: int = TABLE_SEED

    def __post_init__(self) -> None:
        for name, sound, allowed in (
            ("channels", self.channels in (1, 3), "1 (grey) and 3 (RGB)"),
            ("size", self.size is None or self.size >= 1, "1 and more"),
            ("folds", self.folds is None or self.folds >= 2, "2 and more"),
        ):
            if not sound:
                msg = f"got {name}={getattr(self, name)}; allowed are {allowed}; give one of these"
                raise SpecError(msg)


def command_parser(module: str, doc: str | None, defaults: Settings) -> argparse.ArgumentParser:
    """The command line of the converter `module`: source, output and settings; its docstring is the help."""
    parser = argparse.ArgumentParser(
        prog=f"python -m data_prep.{module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "(default: %(default)s)"
    parser.add_argument("source", type=Path, help="the published archive, or the folder that comes out of it")
    parser.add_argument("--output", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--channels", type=int, default=defaults.channels, help=f"of the images: 1 for grey, 3 for RGB {default}"
    )
    parser.add_argument(
        "--average",
        action=argparse.BooleanOptionalAction,
        default=defaults.average,
        help="make grey of colour images by the mean of their channels",
    )
    parser.add_argument("--rescale", action="store_true", help="stretch images of more than 8 bits to 0 … 255")
    parser.add_argument("--size", type=int, default=defaults.size, help=f"resize to this width and height {default}")
    parser.add_argument("--folds", type=int, help="number of seeded folds (default: the paper's, else 4)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help=f"seed of folds and split {default}")
    return parser


def run_command(
    convert: Callable[..., PictureConversion], parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> int:
    """Convert as the command line says and print what came of it.

    Args:
        convert: takes source, output, `settings` and what else the parser knows.
        parser: by `command_parser`.
        arguments: of the command line; None for those of the process.

    Returns:
        The exit code, 2 for what the user can mend.
    """
    options = vars(parser.parse_args(arguments))
    source, output = options.pop("source"), options.pop("output")
    try:
        settings = Settings(**{field.name: options.pop(field.name) for field in fields(Settings)})
        conversion = convert(source, output, settings=settings, **options)
    except MedSegDiffError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    sizes = ", ".join(f"{len(conversion.split[part])} {part}" for part in PARTS)
    print(
        f"{output}: kept {len(conversion.kept)} pairs ({sizes}), {len(conversion.misfits)} misfits, "
        f"{len(conversion.remarks)} remarks, see {MISFITS_FILE}"
    )
    for misfit in conversion.misfits:
        print(f"  {misfit.case}: {misfit.reason}")
    return 0
