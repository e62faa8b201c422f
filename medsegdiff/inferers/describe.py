"""How a network segments, in words for reports and tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsegdiff.data.bundle_metadata import bundle_name, read_metadata
from medsegdiff.files import sha256_of
from medsegdiff.inferers.ensemble import EnsembleSegmenter
from medsegdiff.inferers.slicewise import Segmenter
from medsegdiff.methods import RunSpec, spec_path
from medsegdiff.methods.training_data import weights_training_data


def describe_members(network: Segmenter, weights: str | Sequence[str]) -> list[dict[str, Any]]:
    """For each member: its weights file, method and size, and for those that sample the sampler, steps and draws."""
    files = [weights] if isinstance(weights, (str, os.PathLike)) else list(weights)
    members = network.segmenters if isinstance(network, EnsembleSegmenter) else [network]
    entries = []
    for file, member in zip(files, members, strict=True):
        spec = RunSpec.read(spec_path(file))
        entry: dict[str, Any] = {"weights": str(file), "method": spec.method, "size": spec.size}
        if not member.supervised:
            entry |= {"sampler": member.sampler, "steps": member.steps, "draws": member.draws}
            entry |= {"sampler_options": member.sampler_options} if member.sampler_options else {}
        entries.append(entry)
    return entries


def describe_fusion(network: Segmenter) -> dict[str, Any]:
    """How the members of an ensemble, or the draws of a network, are fused; empty for a single segmenter."""
    if not isinstance(network, EnsembleSegmenter):
        return {}
    return {"fusion": network.fusion} | ({"fuse_draws": True} if network.fuse_draws else {})


def describe_model(bundle: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Which model it is, without any path: what a report and a page name.

    Args:
        bundle: its folder.
        settings: of a `BundlePredictor`.

    Returns:
        Name and version of the bundle, and "members": of each the weights' file name and SHA-256, method, size, and
        what it was trained on, see `weights_training_data`.

    Raises:
        MedSegDiffError: metadata, or a `model.json`, that cannot be read.
    """
    metadata = read_metadata(bundle)
    members = [
        {
            "weights": Path(member["weights"]).name,
            "sha256": sha256_of(Path(member["weights"])),
            "method": member["method"],
            "size": member["size"],
            "training_data": weights_training_data(member["weights"]),
        }
        for member in settings["members"]
    ]
    return {
        "bundle": bundle_name(bundle, metadata),
        "version": str(metadata.get("version") or "unknown"),
        "members": members,
    }


def sampling_settings(network: Segmenter, weights: str | Sequence[str], seed: int) -> dict[str, Any]:
    """The same as one flat row for a table: what members do not share is joined by "+"."""
    members = describe_members(network, weights)
    row: dict[str, Any] = {}
    for key in ("method", "size", "sampler", "steps", "draws"):
        values = list(dict.fromkeys(member[key] for member in members if key in member))
        row[key] = values[0] if len(values) == 1 else "+".join(str(value) for value in values)
    return {**row, **describe_fusion(network), "seed": seed}
