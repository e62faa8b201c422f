"""A run with a network of few weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medsegdiff.methods import RunSpec

TINY = {"channels": [8, 16], "num_res_blocks": 1, "num_heads": 2, "time_dim": 8}


@pytest.fixture
def make_spec() -> Callable[..., RunSpec]:
    """A specification of two channels and three classes, with any field changed."""

    def make(dims: int = 2, **changes: Any) -> RunSpec:
        fields: dict[str, Any] = {
            "task": "phantoms",
            "method": "recycling",
            "size": "small",
            "spatial_dims": dims,
            "in_channels": 2,
            "class_names": ["background", "head", "tail"],
            "roi_size": [8, 6, 4][:dims],
            "options": TINY,
            "steps": 2,
        }
        return RunSpec(**{**fields, **changes})

    return make
