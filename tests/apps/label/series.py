"""Generated series of a hospital: regular ones, and one of each defect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset
from scipy.ndimage import gaussian_filter

from tests.data.dicom.synthetic import AXIAL, CORONAL, OBLIQUE, contours, enhanced, noise, places, slices, write

HEIGHTS = np.arange(6) * 2.0
ROOT = "1.2.826.0.1.3680043.8.498"
PATIENT = {"PatientName": "Doe^Jane", "PatientID": "MRN-4711"}


def smooth(seed: int, shape: tuple[int, int, int] = (24, 20, 12)) -> np.ndarray:
    """Blobs of whole numbers (columns, rows, slices) around 300."""
    blobs = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return (blobs / blobs.std() * 50 + 300).astype(np.int16)


def brain(number: int, description: str = "", *, study: int | None = None, **attributes: object) -> list[Dataset]:
    """An oblique MR series of blobs."""
    of = number if study is None else study
    about = {
        **PATIENT,
        "SeriesInstanceUID": f"{ROOT}.{number}",
        "StudyInstanceUID": f"{ROOT}.9{of}",
        "FrameOfReferenceUID": f"{ROOT}.8{of}",
        "SeriesDescription": description,
        **attributes,
    }
    positions = places(np.arange(12) * 1.5, OBLIQUE)
    return slices(positions, orientation=OBLIQUE, spacing=(1.0, 1.2), volume=smooth(number), **about)


def defective() -> dict[str, list[Dataset]]:
    """A series of each defect, by the words that tell it."""
    tilted = places(HEIGHTS) + np.outer(HEIGHTS, [0, 0.25, 0])
    turned = np.where(np.arange(6)[:, None, None] < 3, AXIAL, CORONAL)
    found = {
        "gantry tilt": (tilted, {}),
        "1 missing slice": (places(np.delete(np.arange(7) * 2.0, 3)), {}),
        "uneven slice spacing": (places([0, 2, 4.7, 6, 8, 10.9]), {}),
        "several orientations": (
            places(HEIGHTS),
            {"ImageOrientationPatient": [[f"{one:g}" for one in turn.ravel()] for turn in turned]},
        ),
        "lie at the same": (places([0] * 6), {}),
    }
    return {
        words: slices(
            positions,
            volume=noise(6),
            SeriesInstanceUID=f"{ROOT}.70{number}",
            StudyInstanceUID=f"{ROOT}.970{number}",
            **{**PATIENT, **attributes},
        )
        for number, (words, (positions, attributes)) in enumerate(found.items())
    }


def multi_frame() -> list[Dataset]:
    """A series that is one file."""
    image = enhanced(places(np.arange(12) * 1.5), volume=smooth(3))
    image.SeriesInstanceUID, image.StudyInstanceUID = f"{ROOT}.3", f"{ROOT}.93"
    image.SOPInstanceUID = f"{ROOT}.3.1"
    return [image]


def structures() -> list[Dataset]:
    """A series without pixels."""
    return [contours(SeriesInstanceUID=f"{ROOT}.600", SOPInstanceUID=f"{ROOT}.600.1", **PATIENT)]


def add(store: object, datasets: list[Dataset], scratch: Path) -> str:
    """Store a series; its UID."""
    uid = str(datasets[0].SeriesInstanceUID)
    store.add(write(scratch / uid, datasets))  # type: ignore[attr-defined]
    return uid
