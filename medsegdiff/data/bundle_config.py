"""Reading the configurations of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsegdiff.errors import DataError, SpecError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

TRAIN_CONFIG = Path("configs") / "train.json"
EVALUATE_CONFIG = Path("configs") / "evaluate.json"
INFERENCE_CONFIG = Path("configs") / "inference.json"


def read_bundle_config(bundle: Path, config: Path, settings: Mapping[str, Any] | None = None) -> ConfigParser:
    """A configuration of a bundle, not evaluated yet.

    Args:
        bundle: its folder.
        config: the file, relative to that.
        settings: ids to set, such as "epochs" or "optimizer#weight_decay". The last part of a longer id may be new, as
            arguments that the bundle leaves at their defaults are.

    Raises:
        DataError: no such file, or one that cannot be read.
        SpecError: an id that the bundle does not have.
    """
    from monai.bundle import ConfigParser  # seconds to import

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
    for name, value in (settings or {}).items():
        owner = name.rpartition("#")[0]
        if name not in parser and not (owner and isinstance(parser.get(owner), dict)):
            known = [str(key) for key in parser.get("") if not str(key).startswith("_")]
            msg = f"{path} has no id {name!r} to set to {value!r}; leave it out, or use one of {', '.join(known)}"
            raise SpecError(msg)
        parser[name] = value
    return parser
