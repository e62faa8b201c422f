"""The study file: which methods are trained how, and what is measured of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medsegdiff.compare.study_values import (
    DECIDED_OF_EVALUATION,
    UniqueKeys,
    found_bundle,
    found_path,
    keys_in,
    name_in,
    numbers_in,
    settings_in,
)
from medsegdiff.data.splits import PARTS
from medsegdiff.errors import DataError, SpecError, one_line
from medsegdiff.methods import SIZES, get_method
from medsegdiff.networks.schedulers import get_sampler

STUDY_KEYS = (
    *("name", "bundle", "dataset_dir", "split_file", "folds", "size", "budget", "seeds", "settings", "methods"),
    *("weights", "ensembles", "evaluation", "pictures", "credit"),
)
VARIANT_KEYS = ("method", "name", "settings", "evaluation")
WEIGHTS = OWN, EACH_SAMPLER = ("own", "each_sampler")
EVALUATION_KEYS = ("part", "samplers", "steps", "draws", "seeds", "stop_after", "probe_t", "settings")


@dataclass(frozen=True)
class Budget:
    """How long each method is trained: so many optimiser steps, or so many minutes of them; the other is None."""

    steps: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a trained method.

    Attributes:
        part: of the split.
        samplers: names; empty for each method's own.
        steps: numbers of visited time steps; empty for each method's own.
        draws: numbers of draws to average; empty for each method's own.
        seeds: of the sampling noise.
        stop_after: in samplings of more steps than the least of these, the results after so many steps are measured in
            place of those of every step.
        probe_t: time steps at which one prediction from the truth's x_t is held against one from pure noise.
        settings: ids of the bundle's `evaluate.json`.
    """

    part: str = "test"
    samplers: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    draws: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    stop_after: tuple[int, ...] = ()
    probe_t: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def measured_steps(self, steps: int) -> tuple[int, ...]:
        """After which steps, counted from 1, a sampling of so many is measured; the last is always among them."""
        stops = sorted({stop for stop in self.stop_after if stop < steps})
        return (*stops, steps) if stops else tuple(range(1, steps + 1))


@dataclass(frozen=True)
class Variant:
    """A method with its options.

    Attributes:
        method: its name in the registry.
        name: of the variant; empty for the plain method.
        settings: ids of the bundle's `train.json`, those of the whole study included.
        evaluation: what is measured of it.
    """

    method: str
    name: str
    settings: Mapping[str, Any]
    evaluation: Evaluation

    @property
    def label(self) -> str:
        """What it is called where one name must do."""
        return self.name or self.method


@dataclass(frozen=True)
class Study:
    """A comparison of methods.

    Attributes:
        name: of the study.
        bundle: folder of the bundle.
        dataset_dir: folder of the cases; None for phantoms.
        split_file: which case belongs to which part; None for the bundle's.
        folds: which folds are the test part, each in turn; empty for a plain split.
        size: of the networks; None for the bundle's.
        budget: of training.
        seeds: of training.
        variants: what is compared.
        weights: of a training that are measured: "own", those that its own sampler finds best in validation, or
            "each_sampler", which takes those that each sampler finds best for itself (Fu et al. 2023, section 5.3) and
            validates as many times as there are samplers.
        ensembles: labels of variants whose probabilities are averaged.
        pictures: how many cases are kept for pictures.
        text: of the file.
    """

    name: str
    bundle: Path
    dataset_dir: Path | None
    split_file: Path | None
    folds: tuple[int, ...]
    size: str | None
    budget: Budget
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    weights: str
    ensembles: tuple[tuple[str, ...], ...]
    pictures: int
    text: str


def read_study(path: str | Path, *, dataset_dir: str | Path | None = None) -> Study:
    """Read a study file.

    Folders and files in it are looked for in the working folder and then beside the study file; a bundle also by its
    name among those of the repository.

    Args:
        path: of the YAML file.
        dataset_dir: in place of the one in the file.

    Raises:
        DataError: no such file, no YAML, or a folder that does not exist.
        SpecError: keys, names or values that do not exist or do not fit; the message lists what does.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=UniqueKeys)  # which is a SafeLoader
    except (OSError, ValueError, yaml.YAMLError) as error:
        msg = f"{path}: cannot be read as YAML ({one_line(error)}); give a study file, such as studies/quick.yaml"
        raise DataError(msg) from error
    study = keys_in(content, STUDY_KEYS, str(path))
    missing = [key for key in ("name", "bundle", "budget", "methods") if study.get(key) is None]
    if missing:
        msg = f"{path}: got no {', '.join(missing)}; a study needs at least name, bundle, budget and methods"
        raise SpecError(msg)
    evaluation = _evaluation(study.get("evaluation"), Evaluation(), "evaluation")
    variants = _variants(study["methods"], settings_in(study.get("settings"), "settings"), evaluation)
    size = study.get("size")
    if size not in (None, *SIZES):
        msg = f"size {size!r} does not exist; use one of {', '.join(SIZES)}"
        raise SpecError(msg)
    weights = study.get("weights", OWN)
    if weights not in WEIGHTS:
        msg = f"weights {weights!r} do not exist; use one of {', '.join(WEIGHTS)}"
        raise SpecError(msg)
    data = study.get("dataset_dir") if dataset_dir is None else dataset_dir
    split = study.get("split_file")
    return Study(
        name=name_in(study["name"]),
        bundle=found_bundle(str(study["bundle"]), path.parent),
        dataset_dir=None if data is None else found_path(str(data), path.parent, "dataset_dir"),
        split_file=None if split is None else found_path(str(split), path.parent, "split_file"),
        folds=numbers_in(study.get("folds") or [], "folds", least=0),
        size=size,
        budget=_budget(study["budget"]),
        seeds=numbers_in(study.get("seeds", [0]), "seeds", least=0, some=True),
        variants=variants,
        weights=weights,
        ensembles=_ensembles(study.get("ensembles") or [], [variant.label for variant in variants]),
        pictures=numbers_in([study.get("pictures", 3)], "pictures", least=0)[0],
        text=text,
    )


def _variants(entries: Any, settings: Mapping[str, Any], evaluation: Evaluation) -> tuple[Variant, ...]:
    if not isinstance(entries, list) or not entries:
        msg = f"methods is {entries!r}; give a list of names, or of mappings with {', '.join(VARIANT_KEYS)}"
        raise SpecError(msg)
    variants = []
    for number, entry in enumerate(entries, start=1):
        where = f"methods, entry {number}"
        given = keys_in({"method": entry} if isinstance(entry, str) else entry, VARIANT_KEYS, where)
        method = str(given.get("method"))
        get_method(method)
        if "+" in str(given.get("name")):
            msg = f"{where}: the name {given['name']!r} holds a '+', which joins the members of ensembles; use another"
            raise SpecError(msg)
        own = settings_in(given.get("settings"), f"settings of {where}")
        variants.append(
            Variant(
                method=method,
                name=str(given.get("name") or ""),
                settings={**settings, **own},
                evaluation=_evaluation(given.get("evaluation"), evaluation, f"evaluation of {where}"),
            )
        )
    twice = [label for label, count in Counter(variant.label for variant in variants).items() if count > 1]
    if twice:
        msg = f"methods holds {', '.join(twice)} more than once; give each variant a name of its own"
        raise SpecError(msg)
    return tuple(variants)


def _evaluation(given: Any, default: Evaluation, where: str) -> Evaluation:
    """What `given` says, and where it says nothing `default`."""
    entries = keys_in({} if given is None else given, EVALUATION_KEYS, where)
    changes: dict[str, Any] = {}
    for key, least in (("steps", 1), ("draws", 1), ("seeds", 0), ("stop_after", 1), ("probe_t", 0)):
        if key in entries:
            value = entries[key]
            values = [] if value is None else value if isinstance(value, list) else [value]
            changes[key] = numbers_in(values, f"{key} of {where}", least=least, some=key == "seeds")
    if "samplers" in entries:
        names = entries["samplers"] or []
        changes["samplers"] = tuple(str(name) for name in (names if isinstance(names, list) else [names]))
        for name in changes["samplers"]:
            get_sampler(name)
    if "part" in entries:
        changes["part"] = entries["part"]
        if entries["part"] not in PARTS:
            msg = f"part {entries['part']!r} of {where} does not exist; use one of {', '.join(PARTS)}"
            raise SpecError(msg)
    if "settings" in entries:
        changes["settings"] = settings_in(entries["settings"], f"settings of {where}", DECIDED_OF_EVALUATION)
    return replace(default, **changes)


def _budget(given: Any) -> Budget:
    budget = keys_in(given, ("steps", "minutes"), "budget")
    amounts = {kind: amount for kind, amount in budget.items() if amount is not None}
    if len(amounts) != 1:
        msg = f"budget is {given!r}; give one of steps (of the optimiser) and minutes"
        raise SpecError(msg)
    [(kind, amount)] = amounts.items()
    if kind == "steps":
        if type(amount) is int and amount > 0:
            return Budget(steps=amount)
    elif type(amount) in (int, float) and 0 < amount < math.inf:
        return Budget(minutes=float(amount))
    msg = f"budget is {amount!r} {kind}; give a {'whole ' * (kind == 'steps')}number above 0"
    raise SpecError(msg)


def _ensembles(given: Any, labels: Collection[str]) -> tuple[tuple[str, ...], ...]:
    ensembles = []
    for members in given if isinstance(given, list) else [given]:
        known = isinstance(members, list) and all(member in labels for member in members)
        if not known or len(members) < 2 or len(set(members)) < len(members):
            msg = f"ensembles holds {members!r}; give lists of two or more of {', '.join(labels)}, each once"
            raise SpecError(msg)
        ensembles.append(tuple(members))
    return tuple(ensembles)
