"""What the training of a bundle expects of its cases."""

from __future__ import annotations

from pathlib import Path

from medsegdiff.data.case_files import Expected
from medsegdiff.errors import DataError

TRAINING_CONFIG = Path("configs") / "train.json"


def bundle_task(bundle: str | Path) -> tuple[Expected, str | None]:
    """Axes, channels and classes that a bundle trains with, and the path of its split file where it has one.

    Raises:
        DataError: no such bundle, or one whose configuration cannot be read.
    """
    from monai.bundle import ConfigParser  # seconds to import

    config = Path(bundle) / TRAINING_CONFIG
    if not config.is_file():
        msg = f"{bundle} has no {TRAINING_CONFIG}; give --bundle the folder of a bundle"
        raise DataError(msg)
    parser = ConfigParser()
    try:
        parser.read_config(str(config))
    except ValueError as error:
        msg = f"{config} cannot be read as a configuration ({error}); mend it, or take the bundle's own"
        raise DataError(msg) from error
    parser["bundle_root"] = str(bundle)
    phantoms = parser.get_parsed_content("phantoms")
    expected = Expected(
        spatial_dims=len(phantoms.shape),
        channels=phantoms.in_channels,
        class_names=tuple(parser.get_parsed_content("class_names")),
    )
    return expected, parser.get_parsed_content("split_file")
