"""Digests that tell one run of a study from another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medsegdiff.files import sha256_of


def digest_of(path: Path) -> str:
    """A digest of a file's content."""
    return sha256_of(path)[:16]


def digest_of_values(values: Any) -> str:
    """A digest of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]
