"""Reading the configurations of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medsegdiff.errors import DataError

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

TRAIN_CONFIG = Path("configs") / "train.json"
EVALUATE_CONFIG = Path("configs") / "evaluate.json"
INFERENCE_CONFIG = Path("configs") / "inference.json"


def read_bundle_config(bundle: Path, config: Path) -> ConfigParser:
    """A configuration of a bundle, not evaluated yet.

    Args:
        bundle: its folder.
        config: the file, relative to that.

    Raises:
        DataError: no such file, or one that cannot be read.
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
    return parser
