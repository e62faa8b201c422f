"""A bundle with tiny untrained weights, images for it, and the command in this process."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from medsegdiff.cli.main import app

SHAPE = (10, 9, 8)


@pytest.fixture
def save_image():
    """Writes a NIfTI image of noise."""

    def save(path: Path, *, affine: np.ndarray | None = None, array: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.random.default_rng(0).random(SHAPE).astype(np.float32) if array is None else array
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine), path)
        return path

    return save


@pytest.fixture
def run():
    """Runs `medsegdiff` with arguments and gives exit code, standard output and error stream."""

    def invoke(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def predict(run, tiny_bundle, tmp_path):
    """Runs `medsegdiff predict` with the tiny bundle into `tmp_path/out`."""

    def invoke(*arguments: object):
        return run("predict", "--bundle", tiny_bundle, "--output", tmp_path / "out", "--device", "cpu", *arguments)

    return invoke
