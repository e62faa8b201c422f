"""What a bundle says of itself, `configs/metadata.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsegdiff.errors import DataError

METADATA = Path("configs") / "metadata.json"


def read_metadata(bundle: Path) -> dict[str, Any]:
    """The metadata of a bundle, empty where it has none.

    Raises:
        DataError: they cannot be read.
    """
    path = bundle / METADATA
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read as JSON ({error}); mend it, or take the bundle's own"
        raise DataError(msg) from error
    return metadata if isinstance(metadata, dict) else {}


def bundle_name(bundle: Path, metadata: Mapping[str, Any]) -> str:
    """What a bundle is called, by its metadata, or by its folder where they do not say."""
    return str(metadata.get("name") or bundle.resolve().name)
