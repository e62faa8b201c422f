"""What the classes of a bundle are called in DICOM: codes of SNOMED CT, names and colours, from its metadata.

`metadata.json` may have an entry "segments" with one object a class, in the words of dcmqi's metadata for
segmentations:

    "segments": {
        "left kidney": {
            "SegmentDescription": "Left kidney",
            "SegmentedPropertyCategoryCodeSequence":
                {"CodeValue": "91723000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Anatomical Structure"},
            "SegmentedPropertyTypeCodeSequence":
                {"CodeValue": "64033007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Kidney"},
            "SegmentedPropertyTypeModifierCodeSequence":
                {"CodeValue": "7771000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Left"},
            "AnatomicRegionSequence": ...,
            "recommendedDisplayRGBValue": [185, 102, 83]
        }
    }

Category and type are needed, the rest is free. A class without an entry is an anatomical structure of the type tissue,
under its name: valid DICOM that claims nothing.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medsegdiff.data.bundle_metadata import METADATA
from medsegdiff.errors import SpecError

ENTRY = "segments"
_CATEGORY, _TYPE = "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"
_MODIFIER, _REGION = "SegmentedPropertyTypeModifierCodeSequence", "AnatomicRegionSequence"
_DESCRIPTION, _COLOUR = "SegmentDescription", "recommendedDisplayRGBValue"
_KEYS = (_DESCRIPTION, _CATEGORY, _TYPE, _MODIFIER, _REGION, _COLOUR)
_GOLDEN = 0.618034  # steps of hue that keep neighbours apart, however many there are


@dataclass(frozen=True)
class Code:
    """A coded concept.

    Attributes:
        value: such as "64033007".
        scheme: such as "SCT", SNOMED CT.
        meaning: in words.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What DICOM says of one class.

    Attributes:
        label: name of the class.
        category: the kind of property, such as an anatomical structure.
        type: the property itself, such as a kidney.
        modifier: of the type, such as left; None where there is none.
        region: where in the body; None where the type says so.
        description: in words; empty where there is nothing to add to the name.
        rgb: colour to show it in, three numbers from 0 to 255.
    """

    label: str
    category: Code
    type: Code
    modifier: Code | None = None
    region: Code | None = None
    description: str = ""
    rgb: tuple[int, int, int]


ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
TISSUE = Code("85756007", "SCT", "Tissue")


def bundle_segments(metadata: Mapping[str, Any], class_names: Sequence[str]) -> list[Segment]:
    """The segments of all classes but the background, in their order.

    Args:
        metadata: of the bundle, see `medsegdiff.data.bundle_metadata`.
        class_names: background first.

    Raises:
        SpecError: an entry of the metadata that is no segment.
    """
    entries = metadata.get(ENTRY, {})
    return [class_segment(name, entries.get(name), number) for number, name in enumerate(class_names[1:])]


def class_segment(name: str, entry: Any, number: int) -> Segment:
    """The segment of one class.

    Args:
        name: of the class.
        entry: an object as the module describes it, or None.
        number: of the class, which chooses the colour where the entry has none.

    Raises:
        SpecError: an entry that is no segment.
    """
    if entry is None:
        return Segment(label=name, category=ANATOMY, type=TISSUE, rgb=_colour(number))
    if not isinstance(entry, Mapping) or not {_CATEGORY, _TYPE} <= set(entry) <= set(_KEYS):
        raise _wrong(name, f"{sorted(entry) if isinstance(entry, Mapping) else entry!r}", f"keys {', '.join(_KEYS)}")
    codes = {key: _code(name, entry[key]) for key in (_CATEGORY, _TYPE, _MODIFIER, _REGION) if key in entry}
    return Segment(
        label=name,
        category=codes[_CATEGORY],
        type=codes[_TYPE],
        modifier=codes.get(_MODIFIER),
        region=codes.get(_REGION),
        description=str(entry.get(_DESCRIPTION, "")),
        rgb=_rgb(name, entry[_COLOUR]) if _COLOUR in entry else _colour(number),
    )


def _code(name: str, entry: Any) -> Code:
    keys = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(key), str) and entry[key] for key in keys):
        raise _wrong(name, f"the code {entry!r}", f"texts {', '.join(keys)}")
    return Code(*(entry[key] for key in keys))


def _rgb(name: str, entry: Any) -> tuple[int, int, int]:
    if not isinstance(entry, list) or len(entry) != 3 or not all(type(n) is int and 0 <= n <= 255 for n in entry):
        raise _wrong(name, f"the colour {entry!r}", "three whole numbers from 0 to 255")
    return entry[0], entry[1], entry[2]


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.65, 0.95))
    return red, green, blue


def _wrong(name: str, got: str, allowed: str) -> SpecError:
    msg = f"{METADATA}, {ENTRY}, {name!r}: got {got}; allowed are {allowed}; mend the metadata of the bundle"
    return SpecError(msg)
