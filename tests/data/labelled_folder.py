"""A sound folder of images and labels, ways to spoil it, and what is then said of it."""

from __future__ import annotations

import json

import nibabel
import numpy as np

SHAPE = (12, 10, 8)
NAMES = [f"case_{index}" for index in range(6)]


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def make_image(index, shape=SHAPE):
    return np.random.default_rng(index).normal(100, 10, shape).astype(np.float32)


def make_label(shape=SHAPE):
    """A cube of class 1, 8 voxels; of class 2 one voxel, and apart from it two that touch by a corner."""
    label = np.zeros(shape, np.uint8)
    label[2:4, 2:4, 2:4] = 1
    label[6, 6, 5], label[8, 8, 5], label[5, 5, 4] = 2, 2, 2
    return label


def describe(root, **more):
    content = {
        "tensorImageSize": "3D",
        "modality": {"0": "MR"},
        "labels": {"0": "background", "1": "cube", "2": "dots"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in NAMES],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content | more))


def remarks_of(fingerprint, *severities):
    return [
        (remark.severity, remark.case, remark.text)
        for remark in fingerprint.remarks
        if remark.severity in (severities or ("error", "warning"))
    ]


def only(fingerprint, severity, case, text):
    """The one remark of this case and severity, whose text holds `text`; no other case has any."""
    [(got_severity, got_case, got_text)] = remarks_of(fingerprint)
    assert (got_severity, got_case) == (severity, case)
    assert text in got_text
    assert "\n" not in got_text


def change_image(folder, change, name=NAMES[1], affine=None):
    path = folder / "imagesTr" / f"{name}.nii.gz"
    save(path, change(np.asarray(nibabel.load(path).dataobj)), affine)


def change_label(folder, change, name=NAMES[1], affine=None):
    path = folder / "labelsTr" / f"{name}.nii.gz"
    save(path, change(np.asarray(nibabel.load(path).dataobj)), affine)
