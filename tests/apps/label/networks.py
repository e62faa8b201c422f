"""Bundles of the repository with small networks of random weights, which segment whatever they are given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from medsegdiff.data.bundle_config import INFERENCE_CONFIG, read_bundle_config
from medsegdiff.data.bundle_metadata import METADATA
from medsegdiff.methods import RunSpec, build_segmenter, save_weights


def random_bundle(
    repository: Path, folder: Path, task: str, *, channels: int = 1, window: tuple[int, ...], kind: str | None = None
) -> Path:
    """A bundle that samples in one step.

    Args:
        repository: where the bundles are.
        folder: where to put it.
        task: name of the bundle.
        channels: of its images.
        window: what the network sees at once.
        kind: of its images, in DICOM's words, in place of the bundle's own.
    """
    bundle = folder / task
    shutil.copytree(repository / "bundles" / task / "configs", bundle / "configs")
    if kind is not None:
        metadata = json.loads((bundle / METADATA).read_text())
        metadata["network_data_format"]["inputs"]["image"]["modality"] = kind
        (bundle / METADATA).write_text(json.dumps(metadata))
    spec = RunSpec(
        task=task,
        method="recycling",
        size="small",
        spatial_dims=3,
        in_channels=channels,
        class_names=read_bundle_config(bundle, INFERENCE_CONFIG).get_parsed_content("class_names"),
        roi_size=list(window),
        options={"channels": [4, 4, 4], "num_res_blocks": 0, "transformer": False, "norm": "instance"},
        steps=1,
    )
    save_weights(build_segmenter(spec).state_dict(), spec, bundle / "models" / "model.pt")
    return bundle
