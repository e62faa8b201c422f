"""What the training of a bundle expects of its cases."""

from __future__ import annotations

from pathlib import Path

from medsegdiff.data.bundle_config import TRAIN_CONFIG, read_bundle_config
from medsegdiff.data.case_files import Expected


def bundle_task(bundle: str | Path) -> tuple[Expected, str | None]:
    """Axes, channels and classes that a bundle trains with, and the path of its split file where it has one.

    Raises:
        DataError: no such bundle, or one whose configuration cannot be read.
    """
    parser = read_bundle_config(Path(bundle), TRAIN_CONFIG)
    parser["bundle_root"] = str(bundle)
    phantoms = parser.get_parsed_content("phantoms")
    expected = Expected(
        spatial_dims=len(phantoms.shape),
        channels=phantoms.in_channels,
        class_names=tuple(parser.get_parsed_content("class_names")),
    )
    return expected, parser.get_parsed_content("split_file")
