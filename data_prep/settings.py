"""What a user may choose for every data set, and the command line for it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from medsegdiff.errors import USER_ERROR_EXIT_CODE, MedSegDiffError, SpecError, one_line

if TYPE_CHECKING:
    from data_prep.conversion import Conversion

TABLE_SEED = 0
INTERRUPT_EXIT_CODE = 130  # what a shell says of a program that was ended by Ctrl-C
_DEFAULT = "(default: %(default)s)"


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Options of every converter; each is one of the command line.

    Attributes:
        folds: number of seeded folds of all cases; None for the paper's folds, or four where it has none.
        seed: seed of folds and split.
    """

    folds: int | None = None
    seed: int = TABLE_SEED

    def __post_init__(self) -> None:
        _require("folds", self.folds, self.folds is None or self.folds >= 2, "2 and more")


@dataclass(frozen=True, kw_only=True)
class Settings(SplitSettings):
    """Options of every converter of 2-D data, beside those of `SplitSettings`.

    Attributes:
        channels: of the images, 1 (grey) or 3 (RGB).
        average: make grey of colour images by the mean of their channels instead of leaving them out.
        rescale: stretch images of more than 8 bits to 0 … 255 instead of leaving them out.
        size: width and height to resize to; None keeps what is.
    """

    channels: int = 1
    average: bool = False
    rescale: bool = False
    size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("channels", self.channels, self.channels in (1, 3), "1 (grey) and 3 (RGB)")
        _require("size", self.size, self.size is None or self.size >= 1, "1 and more")


@dataclass(frozen=True, kw_only=True)
class VolumeSettings(SplitSettings):
    """Options of every converter of 3-D data, beside those of `SplitSettings`.

    Attributes:
        link: make symbolic links to the files of a source folder instead of copies.
        workers: number of processes that check and copy; with 1 it is done by this one.
    """

    link: bool = False
    workers: int = field(default_factory=available_cores)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("workers", self.workers, self.workers >= 1, "1 and more")


def command_parser(module: str, doc: str | None, defaults: Settings) -> argparse.ArgumentParser:
    """The command line of the converter `module` of 2-D data; its docstring is the help."""
    parser = _common_parser(module, doc, defaults)
    parser.add_argument(
        "--channels", type=int, default=defaults.channels, help=f"of the images: 1 for grey, 3 for RGB {_DEFAULT}"
    )
    parser.add_argument(
        "--average",
        action=argparse.BooleanOptionalAction,
        default=defaults.average,
        help="make grey of colour images by the mean of their channels",
    )
    parser.add_argument("--rescale", action="store_true", help="stretch images of more than 8 bits to 0 … 255")
    parser.add_argument("--size", type=int, default=defaults.size, help=f"resize to this width and height {_DEFAULT}")
    return parser


def volume_parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line of the converter `module` of 3-D data; its docstring is the help."""
    defaults = VolumeSettings()
    parser = _common_parser(module, doc, defaults)
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--copy", dest="link", action="store_false", help="copy the files (default)")
    files.add_argument("--link", action="store_true", help="make symbolic links to the files of a source folder")
    parser.add_argument(
        "--workers", type=int, default=defaults.workers, help="processes that check and copy (default: one a core)"
    )
    parser.set_defaults(link=defaults.link)
    return parser


def run_command(
    convert: Callable[..., Conversion],
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    *,
    settings_type: type[SplitSettings] = Settings,
) -> int:
    """Convert as the command line says and print what came of it.

    Args:
        convert: takes source, output, `settings` and what else the parser knows.
        parser: by `command_parser` or `volume_parser`.
        arguments: of the command line; None for those of the process.
        settings_type: what `convert` takes as settings.

    Returns:
        The exit code, 2 for what the user can mend.
    """
    options = vars(parser.parse_args(arguments))
    source, output = options.pop("source"), options.pop("output")
    try:
        settings = settings_type(**{entry.name: options.pop(entry.name) for entry in fields(settings_type)})
        conversion = convert(source, output, settings=settings, **options)
    except MedSegDiffError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    except KeyboardInterrupt:
        print(f"interrupted: {output} was not made", file=sys.stderr)
        return INTERRUPT_EXIT_CODE
    print(f"{output}: {conversion.summary()}")
    for misfit in conversion.misfits:
        print(f"  {misfit.case}: {misfit.reason}")
    return 0


def _common_parser(module: str, doc: str | None, defaults: SplitSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m data_prep.{module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the published archive, or the folder that comes out of it")
    parser.add_argument("--output", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--folds", type=int, help="number of seeded folds (default: the paper's, else 4)")
    parser.add_argument("--seed", type=int, default=defaults.seed, help=f"seed of folds and split {_DEFAULT}")
    return parser


def _require(name: str, value: object, sound: bool, allowed: str) -> None:
    if not sound:
        msg = f"got {name}={value}; allowed are {allowed}; give one of these"
        raise SpecError(msg)
