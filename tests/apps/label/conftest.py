"""Servers over folders of small images, with bundles of small networks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medsegdiff.data.phantoms import PhantomSpec, make_phantom
from tests.data.dicom.synthetic import places, slices, write

if TYPE_CHECKING:
    from tests.apps.label.orthanc import Orthanc

SHAPE = (20, 24, 16)
AFFINE = np.array([[-1.0, 0, 0, 12], [0, 1.2, 0, -7], [0, 0, 1.5, 3], [0, 0, 0, 1]])


def blobs(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return (noise / noise.std() * 50 + 300).astype(np.float32)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def label_of(image: np.ndarray) -> np.ndarray:
    return (1 + (image > 330)).astype(np.uint8) * (image > 310)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder of three images, case_0 to case_2."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for number in range(3):
        save(folder / f"case_{number}.nii.gz", blobs(number))
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> list[Path]:
    """A label for each of the images."""
    return [save(tmp_path / f"label_{number}.nii.gz", label_of(blobs(number))) for number in range(3)]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a server within the test process; the client that talks to it ends with the test."""
    from contextlib import ExitStack

    from fastapi.testclient import TestClient
    from monailabel.interfaces.utils.app import app_instance, clear_cache

    from medsegdiff.apps.label.server import LabelServer

    monkeypatch.setattr(os, "environ", os.environ.copy())
    with ExitStack() as stack:

        def start(studies: Path, *bundles: Path, **options: Any) -> TestClient:
            server = LabelServer(str(studies), bundles=bundles, device="cpu", **options)
            server.prepare()
            client = TestClient(server.build(), raise_server_exceptions=False)
            stack.callback(clear_cache)
            stack.callback(app_instance().datastore()._observer.stop)
            return stack.enter_context(client)

        yield start


@pytest.fixture
def client(start: Callable[..., Any], studies: Path, tiny_bundle: Path) -> Any:
    """A server over the three images and the bundle of small networks."""
    return start(studies, tiny_bundle)


@pytest.fixture
def infer(client: Any) -> Callable[..., Any]:
    """Asks a model for a result."""

    def infer(model: str = "hippocampus", image: str = "case_0", *, output: str = "image", **params: Any) -> Any:
        query = {"image": image, "output": output}
        return client.post(f"/infer/{model}", params=query, data={"params": json.dumps(params)})

    return infer


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.real_data), "generated"])
def hippocampus_series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of one MR series in which the shipped weights find both classes."""
    if request.param == "real":
        return request.getfixturevalue("data_root") / "hippocampus" / "dicom_study1"
    spec = PhantomSpec(shape=(36, 50, 36), spacing=(1, 1, 1), num_classes=3, contrast=-0.3)
    image, _ = make_phantom(spec, seed=0)
    volume = np.rint(image[0, ::-1, ::-1]).astype(np.int16)  # from right and anterior to left and posterior
    made = slices(
        places(np.arange(36.0)),
        volume=volume,
        spacing=(1.0, 1.0),
        SeriesDescription="phantom",
        FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.9",
    )
    return write(tmp_path / "series", made)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A real DICOM store without images."""
    from tests.apps.label.orthanc import MISSING, ORTHANC, running_orthanc

    if ORTHANC is None:
        pytest.skip(MISSING)
    with running_orthanc(tmp_path / "orthanc") as store:
        yield store


class FakePrediction:
    """Moments over label maps as draws, by the formulas of the mean and the unbiased variance."""

    def __init__(self, draws: list[np.ndarray], classes: int) -> None:
        one_hot = np.stack([np.stack([draw == k for k in range(classes)]) for draw in draws]).astype(np.float64)
        self.classes = list(one_hot.mean(axis=0))
        self.variance = one_hot.var(axis=0, ddof=1).sum(axis=0) / 2 if len(draws) > 1 else None
        mean = np.clip(one_hot.mean(axis=0), 1e-12, 1)
        self.entropy = -(mean * np.log(mean)).sum(axis=0) / np.log(classes)

    def probability(self, k: int) -> np.ndarray:
        return self.classes[k]


@pytest.fixture
def fake_prediction() -> type[FakePrediction]:
    return FakePrediction
