"""Label maps as DICOM segmentations of the series that they belong to, by the writer of this package."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsegdiff import __version__
from medsegdiff.apps.label.bundles import ServedBundle
from medsegdiff.data.dicom.segmentation import Producer, write_segmentation
from medsegdiff.data.dicom.segments import Segment, bundle_segments, class_segment
from medsegdiff.data.dicom.source import read_source
from medsegdiff.data.reading import read_image
from medsegdiff.errors import SpecError

NAMES = "label_info"
"""Key of a request under which a viewer tells the names and colours of the classes."""
_BACKGROUND = "background"
_TOLD = ("weights", "steps", "draws", "seed", "training_data")
# What dcmqi's words for a segment have beside those for its codes.
_NO_CODES = ("labelID", "SegmentLabel", "SegmentAlgorithmType", "SegmentAlgorithmName")


class SegmentationWriter:
    """Names the segments of label maps by what viewers call them, with the codes that the bundles have for them.

    Args:
        bundles: those that are served.
    """

    def __init__(self, bundles: Sequence[ServedBundle]) -> None:
        self.bundles = bundles

    def write(self, label: Path, series: Path, info: Mapping[str, Any]) -> Path:
        """Write a label map as a temporary file, which is the caller's to remove.

        Args:
            label: whole numbers from 0 to 255 on the grid of the series; value k becomes segment k.
            series: folder of the series.
            info: what is known of the label: `label_info` with names and colours, see `segments_of`; of a model's
                result its name as "model" and what it tells as "params".

        Raises:
            SpecError: names or colours that are none.
            DataError: a series that no DICOM-SEG can refer to, or another grid.
        """
        array = np.rint(read_image(label).array).astype(np.uint8)
        segments = segments_of(
            info.get(NAMES), own=self._own(info), others=self._known(), least=int(array.max(initial=0))
        )
        handle, name = tempfile.mkstemp(prefix="label_", suffix=".dcm")
        os.close(handle)
        path = Path(name)
        try:
            write_segmentation(
                array, path, source=read_source(series), segments=segments, producer=self._producer(info)
            )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _own(self, info: Mapping[str, Any]) -> list[Segment]:
        """The segments of the model that a label is of; of the only bundle where no model is named."""
        params = _told_by_model(info)
        bundle = next((one for one in self.bundles if one.name == params.get("bundle")), None)
        if bundle is not None:
            return bundle_segments(bundle.metadata, [_BACKGROUND, *params["label_names"]])
        return _segments(self.bundles[0]) if len(self.bundles) == 1 else []

    def _known(self) -> dict[str, Segment]:
        return {segment.label.lower(): segment for bundle in self.bundles for segment in _segments(bundle)}

    def _producer(self, info: Mapping[str, Any]) -> Producer:
        if params := _told_by_model(info):
            told = {name.replace("_", " "): _words(params[name]) for name in _TOLD if params.get(name) is not None}
            return Producer(
                name=params["bundle"],
                version=str(params.get("version") or "unknown"),
                parameters={"model": str(info["model"]), **told},
            )
        # In MONAI Label's words, the first name tells of which model's result the label was corrected.
        names = info.get(NAMES) or [{}]
        started_from = str(names[0].get("model_name") or "")
        for bundle in self.bundles:
            if started_from == bundle.name or started_from.startswith(f"{bundle.name}_"):
                version = str(bundle.metadata.get("version") or "unknown")
                parameters = {"model": started_from}
                return Producer(name=bundle.name, version=version, parameters=parameters, share="SEMIAUTOMATIC")
        return Producer(name="drawn in a viewer", version=__version__, share="MANUAL")


def segments_of(
    info: Any, *, own: Sequence[Segment] = (), others: Mapping[str, Segment] | None = None, least: int = 0
) -> list[Segment]:
    """The segments of the classes 1, 2, … of a label map.

    Args:
        info: a list with an object for each class, which may have "name", "description", "color" (red, green, blue,
            from 0 to 255) and "segmentAttribute" (codes, in the words of dcmqi); None where a viewer tells nothing.
        own: segments of the classes as far as they are known: what `info` does not say, these do.
        others: further segments by name in small letters, whose codes are taken where `info` names them.
        least: how many segments are needed; further classes are called by their numbers.

    Raises:
        SpecError: `info` is none of this.
    """
    entries = [] if info is None else info
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        msg = f"got {NAMES} that is no list of objects; send one with name and color for each class"
        raise SpecError(msg)
    entries = [*entries, *[{}] * (max(len(own), least) - len(entries))]
    segments = []
    for number, entry in enumerate(entries):
        base = own[number] if number < len(own) else class_segment(f"label {number + 1}", None, number)
        segments.append(_segment(entry, base, {**(others or {}), base.label.lower(): base}, number))
    return segments


def _segment(entry: Mapping[str, Any], base: Segment, known: Mapping[str, Segment], number: int) -> Segment:
    name = str(entry.get("name") or base.label).strip()
    segment = known.get(name.lower()) or class_segment(name, None, number)
    if "segmentAttribute" in entry:
        segment = _coded(name, entry["segmentAttribute"], number)
    changes: dict[str, Any] = {"label": name}
    if "color" in entry:
        changes["rgb"] = _rgb(entry["color"])
    if entry.get("description"):
        changes["description"] = str(entry["description"])
    return dataclasses.replace(segment, **changes)


def _coded(name: str, given: Any, number: int) -> Segment:
    try:
        codes = {key: value for key, value in given.items() if key not in _NO_CODES}
        return class_segment(name, codes, number)
    except (SpecError, AttributeError) as error:
        msg = (
            f"got a segmentAttribute in {NAMES} that is none; allowed are objects with codes of category and type, in "
            "the words of dcmqi: mend it, or leave it out"
        )
        raise SpecError(msg) from error


def _rgb(given: Any) -> tuple[int, int, int]:
    try:
        red, green, blue = (round(float(part)) for part in list(given)[:3])
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"got the color {given!r} in {NAMES}; allowed are three numbers from 0 to 255"
        raise SpecError(msg) from error
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        msg = f"got the color {given!r} in {NAMES}; allowed are three numbers from 0 to 255"
        raise SpecError(msg)
    return red, green, blue


def _told_by_model(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model tells of its result; empty for a label that is none, whatever a client says of it."""
    params = info.get("params")
    if "model" not in info or not isinstance(params, Mapping):
        return {}
    return params if "bundle" in params and isinstance(params.get("label_names"), Mapping) else {}


def _segments(bundle: ServedBundle) -> list[Segment]:
    return bundle_segments(bundle.metadata, bundle.spec.class_names)


def _words(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, (list, tuple)) else str(value)
