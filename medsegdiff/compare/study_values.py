"""Values of a study file, checked one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import medsegdiff
from medsegdiff.data.bundle_config import TRAIN_CONFIG
from medsegdiff.errors import DataError, SpecError

# Ids of a bundle that other parts of the study decide.
DECIDED = {
    "method": "methods",
    "size": "size",
    "epochs": "budget",
    "seed": "seeds",
    "dataset_dir": "dataset_dir",
    "split_file": "split_file",
    "fold": "folds",
    "device": "--device",
    "bundle_root": "bundle",
    **dict.fromkeys(("ckpt_dir", "output_dir", "run_dir", "resume"), "--output"),
    **dict.fromkeys(("datalists", "datalist", "phantoms"), "dataset_dir"),
}
# The same of its `evaluate.json`.
DECIDED_OF_EVALUATION = {
    **DECIDED,
    **dict.fromkeys(("part", "steps", "draws"), "part, steps or draws of the evaluation"),
    "sampler": "samplers of the evaluation",
    **dict.fromkeys(("weights", "ensemble", "fusion", "fuse_draws"), "methods and ensembles"),
}


def settings_in(given: Any, where: str, decided: Mapping[str, str] = DECIDED) -> dict[str, Any]:
    """Ids of a bundle and their values.

    Args:
        given: what the study file says; None for nothing.
        where: it says so, for messages.
        decided: ids that other parts of the study decide, and which.

    Raises:
        SpecError: no mapping, or one of those ids.
    """
    settings = {} if given is None else given
    if not isinstance(settings, dict):
        msg = f"{where}: got {given!r}; give ids of the bundle and their values"
        raise SpecError(msg)
    for name in settings:
        owner = str(name).partition("#")[0]
        if owner in decided:
            msg = f"{where}: {name} is not set there; say it by {decided[owner]}"
            raise SpecError(msg)
    return {str(name): value for name, value in settings.items()}


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML takes the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Read a mapping.

        Raises:
            MarkedYAMLError: it has a key twice.
        """
        node = super().compose_mapping_node(anchor)
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            problem = f"more than once {', '.join(twice)} in one mapping, which begins"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node


def name_in(value: Any) -> str:
    """A name that a folder can have.

    Raises:
        SpecError: it is none.
    """
    name = str(value)
    if isinstance(value, list | dict) or not name.strip(" .") or set(name) & set("/\\"):
        msg = f"name is {value!r}; give a text that a folder can be called, without slashes"
        raise SpecError(msg)
    return name


def keys_in(given: Any, allowed: Sequence[str], where: str) -> dict[str, Any]:
    """A mapping with some of these keys and no others.

    Raises:
        SpecError: it is none; the message lists the keys.
    """
    if not isinstance(given, dict):
        msg = f"{where}: got {given!r}; give a mapping with keys among {', '.join(allowed)}"
        raise SpecError(msg)
    unknown = [str(key) for key in given if key not in allowed]
    if unknown:
        msg = f"{where}: there is no {', '.join(unknown)}; use keys among {', '.join(allowed)}"
        raise SpecError(msg)
    return given


def numbers_in(values: Any, where: str, *, least: int, some: bool = False) -> tuple[int, ...]:
    """Different whole numbers of at least `least`, in the order given; `some` refuses none.

    Raises:
        SpecError: they are something else.
    """
    good = isinstance(values, list) and all(type(value) is int and value >= least for value in values)
    if not good or len(set(values)) < len(values) or (some and not values):
        msg = f"{where} is {values!r}; give {'one or more ' * some}different whole numbers from {least}"
        raise SpecError(msg)
    return tuple(values)


def found_path(name: str, beside: Path, key: str) -> Path:
    """The absolute path of a file or folder, looked for in the working folder and then beside the study file.

    Raises:
        DataError: it is in neither.
    """
    for folder in (Path(), beside):
        if (folder / name).exists():
            return (folder / name).resolve()
    msg = f"{key} {name} does not exist, neither in {Path.cwd()} nor in {beside.resolve()}; mend the path"
    raise DataError(msg)


def found_bundle(name: str, beside: Path) -> Path:
    """The folder of a bundle, given as one, or by its name among those that come with an editable install.

    Raises:
        DataError: there is no such bundle; the message lists those there are.
    """
    shipped = Path(medsegdiff.__file__).resolve().parents[1] / "bundles"
    places = (Path(name), beside / name, shipped / name, shipped.parent / name)
    for place in places:
        if (place / TRAIN_CONFIG).is_file():
            return place.resolve()
    names = sorted(path.name for path in shipped.glob("*") if (path / TRAIN_CONFIG).is_file())
    msg = f"bundle {name!r} does not exist; give the folder of one, or one of {', '.join(names) or 'none here'}"
    raise DataError(msg)
