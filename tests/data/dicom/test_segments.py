from __future__ import annotations

import json

import pydicom
import pytest
from pydicom.sr._concepts_dict import concepts

from medsegdiff.data.bundle_metadata import read_metadata
from medsegdiff.data.dicom.segments import ANATOMY, TISSUE, Code, bundle_segments
from medsegdiff.errors import SpecError

NAMES = ["background", "spleen", "liver"]


def _code(value="78961009", meaning="Spleen"):
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


def _entry(**changes):
    return {
        "SegmentedPropertyCategoryCodeSequence": _code("91723000", "Anatomical Structure"),
        "SegmentedPropertyTypeCodeSequence": _code(),
        **changes,
    }


def test_a_class_has_the_codes_of_the_metadata():
    region, side = _code("818983003", "Abdomen"), _code("7771000", "Left")
    entry = _entry(
        SegmentDescription="the spleen",
        SegmentedPropertyTypeModifierCodeSequence=side,
        AnatomicRegionSequence=region,
        recommendedDisplayRGBValue=[1, 2, 3],
    )
    spleen, _ = bundle_segments({"segments": {"spleen": entry}}, NAMES)
    assert (spleen.label, spleen.description, spleen.rgb) == ("spleen", "the spleen", (1, 2, 3))
    assert spleen.type == Code("78961009", "SCT", "Spleen")
    assert spleen.category == ANATOMY
    assert (spleen.modifier, spleen.region) == (Code("7771000", "SCT", "Left"), Code("818983003", "SCT", "Abdomen"))


@pytest.mark.parametrize("metadata", [{}, {"segments": {}}, {"segments": {"spleen": _entry()}}])
def test_a_class_without_an_entry_is_some_tissue_under_its_name(metadata):
    first, second = bundle_segments(metadata, NAMES)
    assert (second.label, second.category, second.type) == ("liver", ANATOMY, TISSUE)
    assert first.rgb != second.rgb


def test_colours_of_many_classes_differ():
    segments = bundle_segments({}, ["background", *map(str, range(100))])
    assert len({segment.rgb for segment in segments}) == 100


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("spleen", "got 'spleen'; allowed are keys SegmentDescription,"),
        ({}, r"got \[\]; allowed are keys"),
        (_entry(Colour=[1, 2, 3]), "'Colour'.*; allowed are keys"),
        (_entry(SegmentedPropertyTypeCodeSequence=_code("")), "got the code .* allowed are texts CodeValue"),
        (_entry(AnatomicRegionSequence=[_code()]), "got the code .* allowed are texts CodeValue"),
        (_entry(recommendedDisplayRGBValue=[1, 2]), r"got the colour \[1, 2\]; allowed are three whole"),
        (_entry(recommendedDisplayRGBValue=[1, 2, 256]), "got the colour"),
    ],
)
def test_an_entry_that_is_no_segment_is_refused_by_name(entry, message):
    with pytest.raises(SpecError, match=f"segments, 'spleen': .*{message}"):
        bundle_segments({"segments": {"spleen": entry}}, NAMES)


# Aerial pictures are of no patient.
@pytest.mark.skipif(int(pydicom.__version__[0]) < 3, reason="the dictionary of codes of pydicom 2 lacks some")
@pytest.mark.parametrize(
    "name", ["amos_ct", "brats", "cxr", "hippocampus", "monuseg", "muscle_us", "prostate_mr"], ids=str
)
def test_every_class_of_a_bundle_has_codes_that_exist(repository, name):
    bundle = repository / "bundles" / name
    metadata = read_metadata(bundle)
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert set(channels.values()) - {"background"} <= set(metadata["segments"])
    categories = {code for found in concepts["SCT"].values() for code, (_, groups) in found.items() if 7150 in groups}
    for segment in bundle_segments(metadata, ["background", *metadata["segments"]]):
        assert segment.description
        for code in filter(None, (segment.category, segment.type, segment.modifier, segment.region)):
            assert _is_known(code), code
        assert segment.category.value in categories, segment.category


def _is_known(code):
    return any(
        found.get(code.value, ("",))[0].lower() == code.meaning.lower() for found in concepts[code.scheme].values()
    )


def test_regions_of_brain_tumours_have_codes_too(repository):
    segments = json.loads((repository / "bundles" / "brats" / "metadata.json").read_text())["segments"]
    assert {"edema", "non-enhancing tumor core", "enhancing tumor"} <= set(segments)
