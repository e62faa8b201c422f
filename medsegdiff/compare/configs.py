"""The configurations of a bundle, as a study uses them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medsegdiff.errors import DataError, SpecError, find_user_error

TRAIN_CONFIG = Path("configs") / "train.json"
EVALUATE_CONFIG = Path("configs") / "evaluate.json"


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
    path = bundle / config
    if not path.is_file():
        msg = f"{path} does not exist; give the folder of a bundle, which holds {config}"
        raise DataError(msg)
    parser = ConfigParser()
    try:
        parser.read_config(str(path))
    except ValueError as error:
        msg = f"{path} cannot be read as a configuration ({error}); mend it, or take the bundle's own"
        raise DataError(msg) from error
    for name, value in settings.items():
        owner = name.rpartition("#")[0]
        if name not in parser and not (owner and isinstance(parser.get(owner), dict)):
            known = [str(key) for key in parser.get("") if not str(key).startswith("_")]
            msg = f"{path} has no id {name!r}; take it out of the study, or use one of {', '.join(known)}"
            raise SpecError(msg)
        parser[name] = value
    return parser


def digest_of(path: Path) -> str:
    """A digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def digest_of_values(values: Any) -> str:
    """A digest of what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


@contextlib.contextmanager
def plain_user_errors() -> Iterator[None]:
    """Let a user error through as it was raised: MONAI's parser wraps it into others."""
    try:
        yield
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None or user_error is error:
            raise
        raise user_error from error
