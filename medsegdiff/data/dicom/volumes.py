"""The volumes in one series: its stacks, and the time points, echoes or kinds of image that share a place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

from medsegdiff.data.dicom.frames import Frame
from medsegdiff.data.dicom.grid import Grid, check_alike, grid_of, is_repeated
from medsegdiff.data.dicom.pixels import check_decodable
from medsegdiff.errors import DataError, one_line

_FEWEST_SLICES = 2
_MOST_MARKS = 2  # two may be needed, such as echo and time
_NAMES = {"echo_time": "TE", "trigger_time": "trigger", "ct_kind": "kind"}
_Key = TypeVar("_Key", str, "tuple[str, ...]")


@dataclass(frozen=True, eq=False)
class Volume:
    """A part of a series that is one regular volume.

    Attributes:
        label: what tells it from the other parts, such as "echo 2"; empty if the series is one volume.
        grid: its slices and where they lie.
    """

    label: str
    grid: Grid


@dataclass(frozen=True, eq=False)
class Refusal:
    """A part of a series that is no regular volume, and the one line that says why."""

    label: str
    reason: str


def find_volumes(frames: Sequence[Frame]) -> list[Volume | Refusal]:
    """Split a series where it holds several volumes, and find the grid of each.

    A multi-frame image is split into its stacks. Slices that repeat places are split by one mark (time, echo,
    acquisition, b-value, …) or two if that puts every slice of a part at a place of its own. Of several such splits
    that with the fewest irregular parts is taken, then that with the fewest parts.

    Args:
        frames: all slices of the series.
    """
    found: list[Volume | Refusal] = []
    stacks = _groups(frames, [frame.stack for frame in frames])
    for stack, members in stacks.items():
        label = f"stack {stack}" if len(stacks) > 1 else ""
        try:
            parts = _split_repeats(members)
        except DataError as error:
            found.append(Refusal(label, one_line(error)))
            continue
        found.extend(_volume(" ".join(filter(None, (label, name))), part) for name, part in parts.items())
    return found


def _volume(label: str, frames: Sequence[Frame]) -> Volume | Refusal:
    try:
        check_decodable(frames)
        return Volume(label, grid_of(frames))
    except DataError as error:
        return Refusal(label, one_line(error))


def _split_repeats(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """The slices by a label each, "" where there is nothing to split."""
    check_alike(frames)
    if not is_repeated(frames):
        return {"": list(frames)}
    names = [name for name in frames[0].marks if len({frame.marks.get(name, "") for frame in frames}) > 1]
    splits = []
    for count in range(1, _MOST_MARKS + 1):
        for chosen in combinations(names, count):
            parts = _groups(frames, [tuple(frame.marks.get(name, "") for name in chosen) for frame in frames])
            if all(len(part) >= _FEWEST_SLICES and not is_repeated(part) for part in parts.values()):
                irregular = sum(isinstance(_volume("", part), Refusal) for part in parts.values())
                splits.append((irregular, len(parts), chosen, parts))
    if not splits:
        return {"": list(frames)}  # `grid_of` says where they repeat each other
    _, _, chosen, parts = min(splits, key=lambda split: split[:2])
    values = [_shortened([part[i] for part in parts]) for i in range(len(chosen))]
    labels = [
        " ".join(f"{_NAMES.get(name, name)} {value}" for name, value in zip(chosen, part, strict=True))
        for part in zip(*values, strict=True)
    ]
    return dict(zip(labels, parts.values(), strict=True))


def _groups(frames: Sequence[Frame], keys: Iterable[_Key]) -> dict[_Key, list[Frame]]:
    groups: dict[_Key, list[Frame]] = {}
    for frame, key in zip(frames, keys, strict=True):
        groups.setdefault(key, []).append(frame)
    return {key: groups[key] for key in sorted(groups, key=_by_number)}


def _by_number(key: str | tuple[str, ...]) -> list[tuple[float, str]]:
    """An order in which 2 comes before 10."""
    texts = key if isinstance(key, tuple) else (key,)
    return [(float(text), text) if _is_number(text) else (float("inf"), text) for text in texts]


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _shortened(values: Sequence[str]) -> list[str]:
    r"""Words in which the values differ: `M\ND` for ORIGINAL\PRIMARY\M\ND beside ORIGINAL\PRIMARY\P\ND gives `M`."""
    common = set.intersection(*(set(value.split("\\")) for value in values)) if len(set(values)) > 1 else set()
    short = [" ".join(word for word in value.split("\\") if word not in common) for value in values]
    return short if len(set(short)) == len(set(values)) else list(values)
