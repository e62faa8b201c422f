"""Images whose channels are files of their own: which files belong together, and in which order."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.data.folder_layout import default_name_formatter

from medsegdiff.data.reading import case_name, image_suffix
from medsegdiff.errors import DataError

logger = logging.getLogger(__name__)

Modalities = Sequence[Sequence[str]]
"""The names that each channel goes by, in the order of the channels: [["t1", "t1n"], ["t1ce", "t1c"], …]."""


def group_modalities(
    paths: Sequence[Path], modalities: Modalities, *, misfits: list[DataError] | None = None
) -> dict[str, list[Path]]:
    """Sort the files of images that have a file a channel.

    Names are `CASE_MODALITY` or `CASE-MODALITY`, large or small, or those of nnU-Net, `CASE_0000` for the first
    channel. Files with other names, such as a segmentation beside them, are left out.

    Args:
        paths: files.
        modalities: names of the channels.
        misfits: takes the error of every case that lacks a modality, or has two files of one; such cases are left out.
            None raises the first.

    Returns:
        Name of the case to its files in the order of the channels, sorted by name; files of the same case in several
        folders are several cases, named `FOLDER_CASE`. Empty where no file is named like a modality.

    Raises:
        DataError: a case lacks a modality, or has two files of one.
    """
    grouped, errors = _group(paths, modalities)
    if misfits is None and errors:
        raise errors[0]
    if misfits is not None:
        misfits += errors
    return grouped


def _group(paths: Sequence[Path], modalities: Modalities) -> tuple[dict[str, list[Path]], list[DataError]]:
    """The cases of which there is a file a channel, and what is wrong with the others."""
    channels = _numbers(modalities)
    found: dict[tuple[Path, str], dict[int, Path]] = {}
    others = []
    errors: dict[tuple[Path, str], DataError] = {}
    for path in sorted(paths):
        case, channel = _split_name(case_name(path), channels, len(modalities))
        if channel is None:
            others.append(path.name)
            continue
        files = found.setdefault((path.parent, case), {})
        if channel in files:
            msg = (
                f"{path}: got a second file of {modalities[channel][0]} of the case {case} beside "
                f"{files[channel].name}; allowed is one; remove or rename one of them"
            )
            errors.setdefault((path.parent, case), DataError(msg))
        files[channel] = path
    for (folder, case), files in found.items():
        missing = [names[0] for index, names in enumerate(modalities) if index not in files]
        if missing:
            msg = (
                f"{folder / case}: got {', '.join(files[index].name for index in sorted(files))}, without "
                f"{', '.join(missing)}; needed is a file for each of {', '.join(names[0] for names in modalities)}: "
                "add what is missing, or leave this case out"
            )
            errors.setdefault((folder, case), DataError(msg))
    if found and others:
        logger.info("left out %d files that are named like no modality: %s", len(others), ", ".join(others[:5]))
    names = [case for _, case in found]  # of misfits too: a case keeps its name when they are mended
    grouped = {
        case if names.count(case) == 1 else f"{folder.name}_{case}": [files[index] for index in sorted(files)]
        for (folder, case), files in found.items()
        if (folder, case) not in errors
    }
    return dict(sorted(grouped.items())), list(errors.values())


class CaseNames:
    """Names results after the case in place of the file of its first modality: an `output_name_formatter` of MONAI.

    Args:
        modalities: names of the channels, see `group_modalities`.
    """

    def __init__(self, modalities: Modalities) -> None:
        self.modalities = modalities

    def __call__(self, metadict: dict[str, Any], saver: Any) -> dict[str, Any]:
        """What MONAI's own formatter gives, the modality taken off the name of the file."""
        parts = default_name_formatter(metadict, saver)
        path = Path(str(parts["subject"]))
        name = image_name(path, self.modalities) + (image_suffix(path) or "")
        return {**parts, "subject": str(path.with_name(name))}


def image_name(path: str | Path, modalities: Modalities | None) -> str:
    """The name of the case that a file belongs to: `case_name`, its modality taken off where there are several."""
    name = case_name(path)
    return _split_name(name, _numbers(modalities), len(modalities))[0] if modalities else name


def bundle_modalities(config: Path) -> Modalities | None:
    """The `modalities` of a bundle's `inference.json`; None where it has none, or cannot be read."""
    try:
        found = json.loads(config.read_text()).get("modalities")
    except (OSError, ValueError, AttributeError):  # loading the bundle says what is wrong with it
        return None
    return found or None


def _numbers(modalities: Modalities) -> dict[str, int]:
    return {name.lower(): index for index, names in enumerate(modalities) for name in names}


def _split_name(name: str, channels: dict[str, int], count: int) -> tuple[str, int | None]:
    """The case and the number of the channel that a file's name, without suffix, stands for; None for none."""
    match = re.fullmatch(r"(.+)[_-]([^_-]+)", name)
    if match is None:
        return name, None
    case, ending = match.groups()
    if re.fullmatch(r"\d{4}", ending) and int(ending) < count:
        return case, int(ending)
    channel = channels.get(ending.lower())
    return (name, None) if channel is None else (case, channel)
