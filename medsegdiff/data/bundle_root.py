"""Where a bundle stands on disk, whichever of its configuration files is run and from wherever."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

import medsegdiff
from medsegdiff.data.bundle_metadata import METADATA, read_metadata
from medsegdiff.errors import DataError


def find_bundle_root(task: str, *, arguments: Sequence[str] | None = None) -> str:
    """The folder of a task's bundle.

    `train.json` stands in the root and in `configs/` alike, so neither can name the root relative to itself. Looked at,
    in this order: the folder of the file behind `--config_file`, the working folder, `bundles/TASK` below it, and
    `bundles/TASK` beside the installed package (an editable install).

    Args:
        task: name of the bundle.
        arguments: of the command line; by default the running process's.

    Raises:
        DataError: none of these is the bundle.
    """
    candidates = [
        *_config_folders(sys.argv if arguments is None else arguments),
        Path.cwd(),
        Path.cwd() / "bundles" / task,
        Path(medsegdiff.__file__).resolve().parents[1] / "bundles" / task,
    ]
    for folder in candidates:
        if _is_bundle(folder, task):
            return str(folder)
    places = ", ".join(str(folder) for folder in dict.fromkeys(candidates))
    msg = f"no bundle of task {task!r} at any of {places}; give --bundle_root the folder that holds {METADATA}"
    raise DataError(msg)


def _is_bundle(folder: Path, task: str) -> bool:
    try:
        return bool(read_metadata(folder).get("name") == task)
    except (OSError, DataError):
        return False


def _config_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders of the files behind --config_file; of a folder named configs, the one that holds it."""
    folders = []
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name.replace("-", "_") != "__config_file":
            continue
        value = value or (arguments[position + 1] if position + 1 < len(arguments) else "")
        for file in _as_list(value):
            folder = Path(file).resolve().parent
            folders.append(folder.parent if folder.name == "configs" else folder)
    return folders


def _as_list(value: str) -> list[str]:
    if not value.startswith("["):
        return [value]
    try:
        return [str(item) for item in ast.literal_eval(value)]
    except (ValueError, SyntaxError):
        return [value]
