"""What a conversion from DICOM says of itself: `series.json`, and `dataset.json` where there are labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel

from data_prep.conversion import IMAGES, LABELS
from data_prep.dicom_labels import Labelling
from data_prep.dicom_study import Study
from medsegdiff import __version__
from medsegdiff.data.dicom.plan import Item


def describe(
    study: Study, labelling: Labelling, labelled: Mapping[str, Mapping[str, int]], *, keep_ids: bool
) -> dict[str, Any]:
    """`series.json`: what came from which series, and what did not and why.

    Args:
        study: after its conversion.
        labelling: that its labels came from.
        labelled: voxels of each class by the names of the volumes that have labels.
        keep_ids: name patients.
    """
    volumes = {item.name: names for item in study.items if (names := labelling.outcome(item)[2])}
    content = {
        "version": __version__,
        "converted": [_converted(item, labelled, keep_ids=keep_ids) for item in study.converted],
        "refused": [
            *({"name": item.name, **_facts(item, keep_ids=keep_ids), "reason": item.refused} for item in study.refused),
            *({"reason": line} for line in study.damaged),
        ],
        "skipped": [
            {"name": item.name, **_facts(item, keep_ids=keep_ids), "reason": item.skipped} for item in study.skipped
        ],
        "copies": study.copies,
        "not_dicom": study.ignored,
    }
    if volumes:
        content["labels"] = [
            {"name": item.name, **_facts(item, keep_ids=keep_ids), "volumes": volumes[item.name]}
            for item in study.items
            if item.name in volumes
        ]
    return content


def describe_labelled(study: Study, class_names: Sequence[str], labelled: Collection[str]) -> dict[str, Any]:
    """`dataset.json` in the manner of the Medical Segmentation Decathlon.

    Args:
        study: after its conversion.
        class_names: background first.
        labelled: names of the volumes that have labels.
    """
    items = [item for item in study.converted if item.name in labelled]
    return {
        "name": "dicom",
        "description": "converted from DICOM",
        "tensorImageSize": "3D",
        "modality": {"0": "/".join(sorted({item.header.modality for item in items}))},
        "labels": {str(value): name for value, name in enumerate(class_names)},
        "numTraining": len(items),
        "numTest": 0,
        "training": [
            {"image": f"{IMAGES}/{item.name}.nii.gz", "label": f"{LABELS}/{item.name}.nii.gz"} for item in items
        ],
        "test": [],
    }


def file_of(item: Item, labelled: Collection[str]) -> Path:
    """Where the volume of an item lies in the output folder."""
    return Path(IMAGES if item.name in labelled else "") / f"{item.name}.nii.gz"


def _converted(item: Item, labelled: Mapping[str, Mapping[str, int]], *, keep_ids: bool) -> dict[str, Any]:
    entry = {"file": file_of(item, labelled).as_posix(), **_facts(item, keep_ids=keep_ids)}
    if item.name not in labelled:
        return entry
    return entry | {"label": f"{LABELS}/{item.name}.nii.gz", "voxels": dict(labelled[item.name])}


def _facts(item: Item, *, keep_ids: bool) -> dict[str, Any]:
    facts = {
        "case": item.case,
        **({"patient_id": item.header.patient_id} if keep_ids else {}),
        "series_instance_uid": item.header.series_uid,
        "series_number": item.header.series_number,
        "description": item.description,
        "modality": item.header.modality,
        "part": item.part,
        "slices": item.slices,
    }
    if item.grid is None:
        return facts
    return facts | {
        "shape": list(item.grid.shape),
        "spacing": [round(edge, 6) for edge in item.grid.spacing],
        "orientation": "".join(nibabel.aff2axcodes(item.grid.affine)),
    }
