"""A fingerprint as tables, for the eye, and as JSON, for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsegdiff.data.case_fingerprint import PERCENTILES, CaseFingerprint
from medsegdiff.data.cohort_check import class_name
from medsegdiff.data.fingerprint import Fingerprint
from medsegdiff.data.reading import PICTURE_SUFFIXES, image_suffix
from medsegdiff.data.splits import write_json

if TYPE_CHECKING:
    import pandas

_LEVEL_NAMES = ("min", *(f"{level:g} %" for level in PERCENTILES[1:-1]), "max")


def fingerprint_tables(fingerprint: Fingerprint) -> dict[str, pandas.DataFrame]:
    """Tables by their titles: parts, grids, storage, intensities and classes.

    Percentiles of intensities are of voxels drawn from the cases, as many from each; the smallest and largest values
    of the images are those of all voxels.
    """
    import pandas as pd

    return {title: pd.DataFrame(rows) for title, rows in _tables(fingerprint).items() if rows}


def write_fingerprint(fingerprint: Fingerprint, path: str | Path) -> None:
    """Write the tables, the remarks and the measures of each case as JSON, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    expected = fingerprint.expected
    part_of = {name: part for part, names in fingerprint.parts.items() for name in names}
    content = {
        "dataset_dir": str(fingerprint.dataset_dir),
        "spatial_dims": expected.spatial_dims,
        "class_names": list(expected.class_names),
        "remarks": [vars(remark) for remark in fingerprint.remarks],
        **_tables(fingerprint),
        "cases": [{"part": part_of.get(case.case)} | _case(case) for case in fingerprint.cases],
    }
    write_json(path, content)


def _tables(fingerprint: Fingerprint) -> dict[str, list[dict[str, Any]]]:
    return {
        "parts": [{"part": part, "cases": len(names)} for part, names in fingerprint.parts.items()],
        "grids": _grids(fingerprint.cases),
        "storage": _storage(fingerprint.cases),
        "intensities": _intensities(fingerprint),
        "classes": _classes(fingerprint),
    }


def _grids(cases: Sequence[CaseFingerprint]) -> list[dict[str, Any]]:
    images = [case.image for case in cases if case.image and np.isfinite(case.image.spacing).all()]
    rows = []
    for kind, values in (
        ("size", [image.shape for image in images]),
        ("spacing mm", [image.spacing for image in images]),
    ):
        if kind == "spacing mm" and all(image_suffix(image.path) in PICTURE_SUFFIXES for image in images):
            continue  # pictures have none
        for axis, column in zip("xyz", zip(*values, strict=True), strict=False):
            rows.append({"grid": f"{kind} {axis}"} | _spread(column))
    return rows


def _storage(cases: Sequence[CaseFingerprint]) -> list[dict[str, Any]]:
    kinds: dict[tuple[str, ...], int] = {}
    for case in cases:
        if case.image:
            image = case.image
            key = (image_suffix(image.path) or "DICOM", str(image.dtype), str(image.channels), case.orientation or "-")
            kinds[key] = kinds.get(key, 0) + 1
    names = ("format", "type", "channels", "orientation")
    rows = [dict(zip(names, key, strict=True)) | {"cases": count} for key, count in kinds.items()]
    return sorted(rows, key=lambda row: -row["cases"])


def _intensities(fingerprint: Fingerprint) -> list[dict[str, Any]]:
    cases = [case for case in fingerprint.cases if case.percentiles is not None]
    rows = []
    for channel in range(max((len(case.percentiles) for case in cases if case.percentiles is not None), default=0)):
        names = fingerprint.expected.channel_names
        name = names[channel] if channel < len(names) else str(channel)
        levels = _channel([case.percentiles for case in cases], channel)
        voxels = np.concatenate(_channel([case.voxels for case in cases], channel))
        row = {"channel": name, "voxels": "all"} | _levels(voxels)
        rows.append(row | {"min": min(level[0] for level in levels), "max": max(level[-1] for level in levels)})
        foreground = _channel([case.foreground for case in cases], channel)
        if foreground:
            rows.append({"channel": name, "voxels": "foreground"} | _levels(np.concatenate(foreground)))
    return rows


def _channel(arrays: Sequence[NDArray[Any] | None], channel: int) -> list[NDArray[Any]]:
    return [array[channel] for array in arrays if array is not None and len(array) > channel]


def _levels(voxels: NDArray[np.float32]) -> dict[str, float]:
    levels = dict(zip(_LEVEL_NAMES, np.percentile(voxels, PERCENTILES).tolist(), strict=True))
    return {**levels, "mean": float(voxels.mean(dtype=np.float64)), "sd": float(voxels.std(dtype=np.float64))}


def _classes(fingerprint: Fingerprint) -> list[dict[str, Any]]:
    cases = [case for case in fingerprint.cases if case.classes]
    known = range(1, len(fingerprint.expected.class_names))
    total = sum(math.prod(case.image.shape) for case in cases if case.image)
    unit = _unit(fingerprint)
    rows = []
    for value in sorted({value for case in cases for value in case.classes}.union(known)):
        facts = [case.classes[value] for case in cases if value in case.classes]
        volumes = [fact.volume for fact in facts]
        of_images = sum(case.classes[value].voxels for case in cases if case.image and value in case.classes)
        rows.append(
            {
                "label": value,
                "class": class_name(fingerprint.expected, value),
                "cases": len(facts),
                "voxels": sum(fact.voxels for fact in facts),
                "% of all": 100 * of_images / total if total else None,
                **{f"{key} {unit}": number for key, number in _spread(volumes).items()},
                "parts, median": float(np.median([fact.components for fact in facts])) if facts else None,
                "parts, max": max((fact.components for fact in facts), default=None),
                "at border": sum(fact.at_border for fact in facts),
            }
        )
    return rows


def _unit(fingerprint: Fingerprint) -> str:
    images = [case.image for case in fingerprint.cases if case.image]
    if any(image_suffix(image.path) in PICTURE_SUFFIXES for image in images):
        return "pixels"
    return "mm³" if fingerprint.expected.spatial_dims == 3 else "mm²"


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return dict.fromkeys(("min", "median", "max"))
    return {"min": float(min(values)), "median": float(np.median(values)), "max": float(max(values))}


def _case(case: CaseFingerprint) -> dict[str, Any]:
    image = case.image
    grid: dict[str, Any] = {}
    if image is not None:
        spacing = [step if math.isfinite(step) else None for step in image.spacing]  # JSON knows no NaN
        grid = {"shape": image.shape, "spacing": spacing, "channels": image.channels}
    percentiles = [] if case.percentiles is None else case.percentiles.tolist()
    return {
        "case": case.case,
        **grid,
        "orientation": case.orientation or None,
        "intensities": [dict(zip(_LEVEL_NAMES, levels, strict=True)) for levels in percentiles],
        "classes": {str(value): vars(facts) for value, facts in case.classes.items()},
    }
