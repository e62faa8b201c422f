"""The configurations of a bundle, as a study uses them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medsegdiff.data.bundle_config import read_bundle_config
from medsegdiff.errors import SpecError
from medsegdiff.files import sha256_of


def read_config(bundle: Path, config: Path, settings: Mapping[str, Any]) -> ConfigParser:
    """A configuration of a bundle with some of its ids set.

    Args:
        bundle: its folder.
        config: the file, relative to that.
        settings: ids such as "epochs" or "optimizer#weight_decay". The last part of a longer id may be new, as
            arguments that the bundle leaves at their defaults are.

    Raises:
        DataError: no such file, or one that cannot be read.
        SpecError: an id that the bundle does not have.
    """
    parser = read_bundle_config(bundle, config)
    for name, value in settings.items():
        owner = name.rpartition("#")[0]
        if name not in parser and not (owner and isinstance(parser.get(owner), dict)):
            known = [str(key) for key in parser.get("") if not str(key).startswith("_")]
            msg = f"{bundle / config} has no id {name!r}; take it out of the study, or use one of {', '.join(known)}"
            raise SpecError(msg)
        parser[name] = value
    return parser


def digest_of(path: Path) -> str:
    """A digest of a file's content."""
    return sha256_of(path)[:16]


def digest_of_values(values: Any) -> str:
    """A digest of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]
