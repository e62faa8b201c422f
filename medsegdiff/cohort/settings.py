"""What the results of a cohort depend on, as one digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import medsegdiff
from medsegdiff.files import sha256_of


def settings_digest(
    settings: Mapping[str, Any], bundle: Path, kinds: Sequence[str], *, output_format: str = "nifti"
) -> str:
    """A digest that is the same for two runs exactly when a case may be taken from either.

    In it are the settings of the network, the contents (not the places) of its weights and of the bundle's
    `inference.json`, what is written, and the version of this package; not in it are the device and the number of
    workers, which change the last digits of a probability at most.

    Args:
        settings: of a `BundlePredictor`.
        bundle: folder of the bundle.
        kinds: what is written for each case.
        output_format: of the label maps.
    """
    from medsegdiff.inferers.predictor import CONFIG

    members = [
        {**member, "weights": [sha256_of(file) for file in _weights_files(Path(member["weights"]))]}
        for member in settings["members"]
    ]
    facts = {
        **{key: value for key, value in settings.items() if key != "device"},
        "members": members,
        "config": sha256_of(bundle / CONFIG),
        "kinds": list(kinds),
        "output_format": output_format,
        "medsegdiff": medsegdiff.__version__,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _weights_files(weights: Path) -> list[Path]:
    """A `model.pt`, and the `model.json` beside it."""
    from medsegdiff.methods import spec_path

    return [weights, Path(spec_path(weights))]
