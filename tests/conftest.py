"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state; what must not depend on it has tests of its own."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real images: `$MEDSEGDIFF_DATA`, else `../shared/data` beside the repository; skips without it."""
    root = Path(os.environ.get("MEDSEGDIFF_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real images at {root}; set MEDSEGDIFF_DATA to a folder that has them")
    return root
