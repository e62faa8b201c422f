"""The bundles that are offered to a viewer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import medsegdiff
from medsegdiff.apps.label.weights import SHIPPED, KeptWeights
from medsegdiff.data.bundle_config import INFERENCE_CONFIG
from medsegdiff.data.bundle_metadata import METADATA, bundle_name, read_metadata
from medsegdiff.data.dicom.segments import bundle_segments
from medsegdiff.data.modalities import Modalities, bundle_modalities
from medsegdiff.errors import DataError, one_line
from medsegdiff.methods import RunSpec

logger = logging.getLogger(__name__)

RGB: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


@dataclass(frozen=True)
class ServedBundle:
    """A bundle with weights.

    Attributes:
        name: of the bundle, with which the names of its models begin.
        folder: of the bundle.
        metadata: its `metadata.json`.
        spec: of the shipped weights.
        modalities: names of the channels, where an image has a file a channel.
        weights: the shipped and the fine-tuned ones.
        colours: in which each label is shown.
    """

    name: str
    folder: Path
    metadata: dict[str, Any]
    spec: RunSpec
    modalities: Modalities | None
    weights: KeptWeights
    colours: dict[str, RGB]

    @property
    def labels(self) -> dict[str, int]:
        """Name of each class but the background, to its number in label maps."""
        return {name: number for number, name in enumerate(self.spec.class_names) if number}

    @property
    def kind(self) -> str:
        """What its images are made by, in DICOM's words such as MR; empty where its metadata do not say."""
        inputs = self.metadata.get("network_data_format", {}).get("inputs", {})
        return str(inputs.get("image", {}).get("modality", ""))

    @property
    def description(self) -> str:
        """What a viewer tells about it."""
        return f"{self.metadata.get('description') or self.name} (version {self.metadata.get('version', 'unknown')})"


def find_bundles(folders: Sequence[Path], *, work: Path) -> list[ServedBundle]:
    """The bundles among `folders` that have weights.

    Args:
        folders: bundles, or folders of bundles.
        work: where fine-tuned weights are kept.

    Returns:
        Them, sorted by name.

    Raises:
        DataError: no such folder, none with weights, or two bundles of one name.
    """
    found: dict[str, ServedBundle] = {}
    for folder in folders:
        if not folder.is_dir():
            msg = f"{folder}: there is no such folder; give --bundles a bundle, or a folder of bundles"
            raise DataError(msg)
        candidates = [folder] if (folder / METADATA).is_file() else sorted(path for path in folder.iterdir())
        for candidate in candidates:
            served = _served(candidate.resolve(), work)
            if served is None:
                continue
            if served.name in found and found[served.name].folder != served.folder:
                msg = (
                    f"got two bundles of the name {served.name!r}, {found[served.name].folder} and {served.folder}; "
                    "allowed is one: leave one of them out"
                )
                raise DataError(msg)
            found[served.name] = served
    if not found:
        listed = ", ".join(str(folder) for folder in folders)
        msg = (
            f"got no bundle with weights in {listed}; allowed are folders with {METADATA} and models/model.pt: train "
            "one, or give other --bundles"
        )
        raise DataError(msg)
    return sorted(found.values(), key=lambda bundle: bundle.name)


def own_bundles() -> Path:
    """The folder of bundles beside the package, as it stands in the repository."""
    return Path(medsegdiff.__file__).resolve().parents[1] / "bundles"


def _served(folder: Path, work: Path) -> ServedBundle | None:
    if not (folder / METADATA).is_file() or not (folder / INFERENCE_CONFIG).is_file():
        return None
    try:
        metadata = read_metadata(folder)
        name = bundle_name(folder, metadata)
        weights = KeptWeights(folder, work / "weights" / name)
        if not weights.path(SHIPPED).is_file():
            return None
        spec = weights.spec(SHIPPED)
        colours = {segment.label: segment.rgb for segment in bundle_segments(metadata, spec.class_names)}
    except (OSError, ValueError, AttributeError) as error:  # also what this package raises
        logger.warning("left out the bundle %s: %s", folder, one_line(error))
        return None
    modalities = bundle_modalities(folder / INFERENCE_CONFIG)
    return ServedBundle(name, folder, metadata, spec, modalities, weights, colours)
