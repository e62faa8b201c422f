"""What is to be known about a result, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import medsegdiff
from medsegdiff.methods.training_data import in_words


def case_facts(model: Mapping[str, Any], settings: Mapping[str, Any], steps: Sequence[int]) -> dict[str, str]:
    """Which model made a result, from what it was trained and how it sampled; nothing that names a patient.

    Args:
        model: see `describe_model`.
        settings: of a `BundlePredictor`.
        steps: how many steps each group of draws took.
    """
    members = model["members"]
    methods = _distinct(f"{member['method']} ({member['size']})" for member in members)
    digests = [f"{member['weights']}, SHA-256 {member['sha256']}" for member in members]
    facts = {
        "model": f"{model['bundle']} {model['version']}, {methods}",
        "weights": "; ".join(digests),
        "trained on": _distinct(in_words(member["training_data"]) for member in members),
        "sampling": _distinct(_sampling(member) for member in settings["members"]),
    }
    if set(steps) - {member.get("steps") for member in settings["members"]}:  # sampling that stopped early
        facts["steps taken"] = ", ".join(str(number) for number in steps)
    if "fusion" in settings:
        facts["fusion"] = f"{settings['fusion']} of {'draws' if settings.get('fuse_draws') else 'members'}"
    return facts | {
        "seed": str(settings["seed"]),
        "made by": f"medsegdiff {medsegdiff.__version__}",
        "date": date.today().isoformat(),
    }


def _sampling(member: Mapping[str, Any]) -> str:
    if "sampler" not in member:
        return "one pass, without sampling"
    return f"{member['sampler']}, steps {member['steps']}, draws {member['draws']}"


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
