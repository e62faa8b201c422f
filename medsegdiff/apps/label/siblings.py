"""The files that make one image, where every modality of a study is a file or a series of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medsegdiff.data.modalities import Modalities, group_modalities, image_name
from medsegdiff.data.reading import case_name, image_suffix
from medsegdiff.errors import DataError


def sibling_files(path: Path, modalities: Modalities) -> list[Path]:
    """The files of the case that `path` belongs to, in the order of the channels.

    A file that is named like no modality stands alone: it may hold all channels.

    Raises:
        DataError: the case lacks a modality, or has two files of one.
    """
    case = image_name(path, modalities)
    if case == case_name(path):  # there was no modality to take off
        return [path]
    beside = [file for file in path.parent.iterdir() if file.is_file() and image_suffix(file) is not None]
    own = [file for file in beside if image_name(file, modalities) == case]
    [files] = group_modalities(own, modalities).values()
    return files


def sibling_series(series: str, descriptions: Mapping[str, str], modalities: Modalities) -> list[str]:
    """The series of a study that are the channels of one image, in their order.

    Args:
        series: UID of the series that was asked for.
        descriptions: UID to SeriesDescription, of all series of images of its study.
        modalities: the names that each channel goes by.

    Raises:
        DataError: a modality that no series, or several, are described as.
    """
    chosen = []
    for names in modalities:
        found = [uid for uid, text in descriptions.items() if _tells(text, names, modalities)]
        if series in found:  # of several, the one that the viewer shows
            found = [series]
        if len(found) != 1:
            msg = (
                f"got a study with {len(found) or 'no'} series of {names[0]}; needed is one for each of "
                f"{', '.join(names[0] for names in modalities)}, told by their descriptions: add what is missing, or "
                "describe each series by one of these words"
            )
            raise DataError(msg)
        chosen += found
    if series not in chosen:
        msg = (
            "got a series whose description names none of the modalities "
            f"{', '.join(names[0] for names in modalities)}; open one of those of its study"
        )
        raise DataError(msg)
    return chosen


def _tells(text: str, names: Sequence[str], modalities: Modalities) -> bool:
    """Whether a description names this modality; where words of several fit, the longest word decides."""
    words = _words(text)
    fitting = ((len(name), name in names) for group in modalities for name in group if name.lower() in words)
    best = max(fitting, default=None)
    return best is not None and best[1]


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9+]+", text.lower()) if word]
