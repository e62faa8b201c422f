"""Which files of a folder are an image and its masks: by patterns where the layout is known, else by the names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.conversion import Misfit
from data_prep.folders import files_below
from medsegdiff.data.reading import PICTURE_SUFFIXES, case_name, image_suffix
from medsegdiff.errors import SpecError

CASE = "{case}"
OUTLINE_SUFFIX = ".xml"
MASK_WORDS = frozenset(
    (
        *("mask", "masks", "label", "labels", "annotation", "annotations"),
        *("gt", "truth", "groundtruth", "seg", "segmentation", "segmentations"),
    )
)
IMAGE_WORDS = frozenset(("image", "images", "img", "imgs", "picture", "pictures", "input", "inputs", "gray", "grey"))
PART_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "training"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}


@dataclass(frozen=True)
class Files:
    """The files of one case.

    Attributes:
        case: a name that no other case has.
        image: path of the image.
        masks: paths of its masks, at least one.
        part: "training", "validation" or "test" where a folder's name says so.
    """

    case: str
    image: Path
    masks: tuple[Path, ...]
    part: str | None = None


@dataclass(frozen=True)
class Pairs:
    """The cases of a folder in the order of their names, and files that are no case."""

    cases: tuple[Files, ...]
    misfits: tuple[Misfit, ...] = ()


def pairs_by_pattern(root: Path, *, images: Sequence[str], masks: Sequence[str]) -> Pairs:
    """Match images and masks by what stands for `{case}` in patterns of their paths.

    A file belongs to the first pattern that it fits, those of masks first; the masks of a case are those of the first
    pattern that has any, so that one pattern can stand for several masks of a case and the order for a preference.

    Args:
        root: folder.
        images: patterns below `root`, such as "**/images/{case}.png": `*` stands for anything but a slash, `**/` for
            any folders; upper and lower case are the same.
        masks: likewise.

    Raises:
        SpecError: a pattern without `{case}`.
    """
    mask_regexes, image_regexes = ([_regex(pattern) for pattern in patterns] for patterns in (masks, images))
    found_images: dict[str, list[Path]] = defaultdict(list)
    found_masks: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in _files(root):
        name = path.relative_to(root).as_posix()
        for rank, regex in enumerate([*mask_regexes, *image_regexes]):
            if match := regex.fullmatch(name):
                if rank < len(mask_regexes):
                    found_masks[match["case"]][rank].append(path)
                else:
                    found_images[match["case"]].append(path)
                break
    groups = [
        _Group(case, found_images.get(case, []), preferred)
        for case in sorted(found_images.keys() | found_masks.keys())
        for preferred in [next((paths for _, paths in sorted(found_masks.get(case, {}).items())), [])]
    ]
    return _as_pairs(root, groups, several_masks=True)


def pairs_by_name(root: Path, *, leave_out: str | None = None) -> Pairs:
    """Match images and masks by their names, whatever the layout.

    The nearest folder whose name holds a word for masks or for images (`masks`, `labelsTr`, `image_train`, …) says
    what a file is, else a word in its own name (`a_mask.png`, `gt_a.png`), else it is an image. A pair has the same
    name but for these words, in the same folder but for these words, or, where only one file of either kind has this
    name, anywhere.

    Args:
        root: folder.
        leave_out: files with this in their name are no part of the data set.
    """
    keyed: dict[tuple[tuple[str, ...], tuple[str, ...]], _Group] = {}
    for path in _files(root):
        if path.suffix.lower() == OUTLINE_SUFFIX or (leave_out and leave_out in path.name):
            continue
        relative = path.relative_to(root)
        folders = tuple(filter(None, ("_".join(_other_words(folder)) for folder in relative.parts[:-1])))
        key = folders, _other_words(case_name(path))
        group = keyed.setdefault(key, _Group(""))
        (group.masks if _is_mask(relative) else group.images).append(path)
    groups = _join_halves(keyed)
    names = [_own_name(group) for group in groups.values()]
    counts = Counter(names)
    for name, ((folders, _), group) in zip(names, groups.items(), strict=True):
        group.case = name if name and counts[name] == 1 else "_".join(filter(None, (*folders, name)))
    return _as_pairs(root, sorted(groups.values(), key=lambda group: group.case), several_masks=False)


@dataclass
class _Group:
    case: str
    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)


def _files(root: Path) -> list[Path]:
    """Pictures and outlines below `root`."""
    return [
        path
        for path in files_below(root)
        if image_suffix(path) in PICTURE_SUFFIXES or path.suffix.lower() == OUTLINE_SUFFIX
    ]


def _regex(pattern: str) -> re.Pattern[str]:
    if CASE not in pattern:
        msg = f"got the pattern {pattern!r}; allowed are patterns that hold {CASE}, such as images/{CASE}.png; add it"
        raise SpecError(msg)
    tokens = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    result, seen = "", False
    for piece in re.split(r"(\*\*/|\{case\}|\*|\?)", pattern):
        if piece == CASE:
            result += "(?P=case)" if seen else "(?P<case>[^/]+)"
            seen = True
        else:
            result += tokens.get(piece, re.escape(piece))
    return re.compile(result, re.IGNORECASE)


def _as_pairs(root: Path, groups: Sequence[_Group], *, several_masks: bool) -> Pairs:
    cases, misfits = [], []
    repeated = {name for name, count in Counter(group.case for group in groups).items() if count > 1}
    for group in groups:
        names = [path.relative_to(root).as_posix() for path in (*group.images, *group.masks)]
        if group.case in repeated or len(group.images) > 1 or (len(group.masks) > 1 and not several_masks):
            misfits.append(Misfit(group.case, f"{', '.join(names)}: several files of one case"))
        elif not group.images:
            misfits.append(Misfit(group.case, f"{names[0]}: a mask without an image"))
        elif not group.masks:
            misfits.append(Misfit(group.case, f"{names[0]}: an image without a mask"))
        else:
            part = _part(group.images[0].relative_to(root))
            cases.append(Files(group.case, group.images[0], tuple(group.masks), part))
    return Pairs(tuple(cases), tuple(misfits))


def _join_halves(
    keyed: dict[tuple[tuple[str, ...], tuple[str, ...]], _Group],
) -> dict[tuple[tuple[str, ...], tuple[str, ...]], _Group]:
    """Join a lone image and a lone mask of one name in folders of different names."""
    by_name: dict[tuple[str, ...], list[tuple[tuple[str, ...], tuple[str, ...]]]] = defaultdict(list)
    for key, group in keyed.items():
        if not (group.images and group.masks):
            by_name[key[1]].append(key)
    joined = dict(keyed)
    for keys in by_name.values():
        image_keys = [key for key in keys if keyed[key].images]
        mask_keys = [key for key in keys if keyed[key].masks]
        if len(image_keys) == len(mask_keys) == 1:
            joined[image_keys[0]].masks.extend(joined.pop(mask_keys[0]).masks)
    return joined


def _is_mask(relative: Path) -> bool:
    for folder in reversed(relative.parts[:-1]):
        words = set(_words(folder))
        if words & (MASK_WORDS | IMAGE_WORDS):
            return bool(words & MASK_WORDS)
    return bool(MASK_WORDS.intersection(_words(case_name(relative))))


def _words(name: str) -> list[str]:
    """`labelsTr` is labels and tr, `CXR_png` is cxr and png."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", name)]


def _other_words(name: str) -> tuple[str, ...]:
    return tuple(word for word in _words(name) if word not in MASK_WORDS and word not in IMAGE_WORDS)


def _own_name(group: _Group) -> str:
    """The name of the image without words for images at its end: `a_01_gray` is `a_01`, `img_01` stays.

    Nothing where the name says nothing else (`image.png`).
    """
    name = case_name((group.images or group.masks)[0])
    words = "|".join(sorted(IMAGE_WORDS))
    return re.sub(rf"([-_. ]+({words}))+$", "", name, flags=re.IGNORECASE) if _other_words(name) else ""


def _part(relative: Path) -> str | None:
    for folder in reversed(relative.parts[:-1]):
        for word in _words(folder):
            if word in PART_WORDS:
                return PART_WORDS[word]
    return None
