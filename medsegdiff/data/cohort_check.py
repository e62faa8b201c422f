"""What is odd about cases only beside the others: outliers, repeated images, classes that nobody has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.case_files import Expected
from medsegdiff.data.case_fingerprint import PERCENTILES, CaseFingerprint
from medsegdiff.data.remarks import Remark

# An outlier is further from the median than 3.5 robust standard deviations (Iglewicz and Hoaglin 1993). Where nearly
# all cases are alike, that alone would make outliers of trifles, so that it must also be off by a factor: of 1.5 in
# sizes, of 1.25 in spacings; of 10 in the range of intensities, which in MR is arbitrary; or, as when Hounsfield units
# are stored with and without their offset, moved by half of that range.
OUTLIER_SPREADS = 3.5
SIZE_FACTOR, SPACING_FACTOR, RANGE_FACTOR, RANGE_SHARE = 1.5, 1.25, 10.0, 0.5
FEWEST_CASES = 5
# More cases than these are no outliers but a group of their own, which is told once.
MOST_OUTLIERS, MOST_OUTLIERS_SHARE = 3, 0.1
# A class that touches the border in more cases than this lies at the border; in fewer, these seem cropped.
CROPPED_SHARE = 0.25
_LOW, _MEDIAN, _HIGH = (PERCENTILES.index(level) for level in (0.5, 50.0, 99.5))


def check_cohort(
    cases: Sequence[CaseFingerprint], *, expected: Expected, parts: Mapping[str, Sequence[str]]
) -> list[Remark]:
    """Compare the cases of a data set with each other.

    Args:
        cases: what was measured.
        expected: what they should be like.
        parts: names of the cases of each part.
    """
    return [
        *_repeated_images(cases, {name: part for part, names in parts.items() for name in names}),
        *_other_channels(cases, expected),
        *_classes(cases, expected, set(parts.get("training", ()))),
        *_borders(cases, expected),
        *_grid_outliers(cases),
        *_intensity_outliers(cases),
    ]


def class_name(expected: Expected, value: int) -> str:
    """The name of a class, where it has one."""
    return expected.class_names[value] if value < len(expected.class_names) else f"class {value}"


def _repeated_images(cases: Sequence[CaseFingerprint], part_of: Mapping[str, str]) -> list[Remark]:
    same: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.content:
            same[case.content].append(case.case)
    found = []
    for first, *others in same.values():
        for other in others:
            if {first, other} <= part_of.keys() and part_of[first] != part_of[other]:
                text = (
                    f"in the part {part_of[other]}, the same image as {first} in {part_of[first]}; remove one of them"
                )
                found.append(Remark("error", other, text))
            else:
                found.append(Remark("warning", other, f"the same image as {first}; remove one of them"))
    return found


def _other_channels(cases: Sequence[CaseFingerprint], expected: Expected) -> list[Remark]:
    """Cases of another number of channels than most; where the number is known, `measure_case` has told."""
    counts = Counter(case.image.channels for case in cases if case.image)
    if expected.channels is not None or len(counts) < 2:
        return []
    ((usual, number),) = counts.most_common(1)
    return [
        Remark(
            "error", case.case, f"got {case.image.channels} channels where {number} of {len(cases)} cases have {usual}"
        )
        for case in cases
        if case.image and case.image.channels != usual
    ]


def _classes(cases: Sequence[CaseFingerprint], expected: Expected, training: set[str]) -> list[Remark]:
    counted = [case for case in cases if case.classes]
    present = {value for case in counted for value in case.classes}
    if not counted:
        return []
    if not expected.class_names:
        if present == set(range(1, len(present) + 1)):
            return []
        values = ", ".join(map(str, sorted(present)))
        text = f"got the label values {values}; allowed are 1, 2, 3, … without gaps: map the values to classes"
        return [Remark("error", "", text)]
    found = []
    trained = {value for case in counted if case.case in training for value in case.classes}
    for value, name in enumerate(expected.class_names[1:], start=1):
        if value not in present:
            text = f"no case has the class {name} ({value}); it cannot be learned"
            found.append(Remark("warning", "", text))
        elif training and value not in trained:
            text = f"no case of the training part has the class {name} ({value}), which others have; split otherwise"
            found.append(Remark("warning", "", text))
    return found


def _borders(cases: Sequence[CaseFingerprint], expected: Expected) -> list[Remark]:
    found = []
    for value in sorted({value for case in cases for value in case.classes}):
        having = [case for case in cases if value in case.classes]
        touching = [case.case for case in having if case.classes[value].at_border]
        name = class_name(expected, value)
        if len(touching) > CROPPED_SHARE * len(having):
            text = f"{name} reaches the border of the image in {len(touching)} of {len(having)} cases"
            found.append(Remark("note", "", text))
        else:
            text = f"{name} reaches the border of the image, unlike in most cases: it may be cropped"
            found += [Remark("note", case, text) for case in touching]
    return found


def _grid_outliers(cases: Sequence[CaseFingerprint]) -> list[Remark]:
    images = [(case.case, case.image) for case in cases if case.image]
    found = []
    for kind, unit, least, values in (
        ("size", "voxels", SIZE_FACTOR, [image.shape for _, image in images]),
        ("spacing", "mm", SPACING_FACTOR, [image.spacing for _, image in images]),
    ):
        # Without extent there is no logarithm; the grid has been found wrong then.
        sound = {
            name: row for (name, _), row in zip(images, values, strict=True) if np.isfinite(row).all() and min(row) > 0
        }
        if not sound:
            continue
        table = np.array(list(sound.values()), dtype=float)
        far = np.asarray(_far_from_median(np.log(table), least=np.log(least)).any(axis=1))
        usual = np.median(table, axis=0)
        texts = {
            name: f"{_product(row)} {unit}, where the median is {_product(usual)}"
            for name, row, is_far in zip(sound, table, far, strict=True)
            if is_far
        }
        found += _outliers(texts, len(far), kind)
    return found


def _intensity_outliers(cases: Sequence[CaseFingerprint]) -> list[Remark]:
    measured = [(case.case, case.percentiles) for case in cases if case.percentiles is not None]
    found = []
    for channel in range(max((len(levels) for _, levels in measured), default=0)):
        having = [(name, levels[channel, [_LOW, _MEDIAN, _HIGH]]) for name, levels in measured if len(levels) > channel]
        having = [(name, levels) for name, levels in having if levels[0] < levels[2]]  # others have been told of
        if not having:
            continue
        table = np.stack([levels for _, levels in having])  # (cases, 3)
        usual = np.median(table, axis=0)
        width = table[:, 2] - table[:, 0]
        wide = _far_from_median(np.log(width), least=np.log(RANGE_FACTOR))
        moved = _far_from_median(table[:, 1] / width, least=RANGE_SHARE)
        kind = f"range of intensities in channel {channel}"
        texts = {
            name: f"{low:.4g} to {high:.4g} around {median:.4g}, where the medians are {usual[0]:.4g} to "
            f"{usual[2]:.4g} around {usual[1]:.4g}"
            for (name, _), (low, median, high), is_far in zip(having, table, wide | moved, strict=True)
            if is_far
        }
        found += _outliers(texts, len(table), kind)
    return found


def _outliers(texts: Mapping[str, str], number: int, kind: str) -> list[Remark]:
    """A remark for each outlier among so many cases, or one where there are too many to be that."""
    if len(texts) <= max(MOST_OUTLIERS, MOST_OUTLIERS_SHARE * number):
        return [Remark("warning", name, f"unusual {kind}: {text}") for name, text in texts.items()]
    first, text = next(iter(texts.items()))
    text = (
        f"{len(texts)} of {number} cases have an unusual {kind}, such as {first}: {text}; make sure that the "
        "preprocessing evens this out"
    )
    return [Remark("warning", "", text)]


def _far_from_median(values: NDArray[np.float64], *, least: float) -> NDArray[np.bool_]:
    """Which values (cases, columns) are outliers of their column, none where there are too few to tell."""
    from scipy.stats import median_abs_deviation  # a second to import

    if len(values) < FEWEST_CASES:
        return np.zeros(values.shape, bool)
    spread = median_abs_deviation(values, axis=0, scale="normal")
    distance = np.abs(values - np.median(values, axis=0))
    return np.asarray(distance > np.maximum(OUTLIER_SPREADS * spread, least))


def _product(values: NDArray[np.float64]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)
