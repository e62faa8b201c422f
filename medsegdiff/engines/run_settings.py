"""What decides on the steps of a run's optimisation, as plain values that a checkpoint keeps and compares."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

# Of optimisers: the state of the schedule, and how the same step is computed.
_NOT_OF_THE_MATHEMATICS = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")


def settings_of(name: str, thing: object) -> dict[str, Any]:
    """What an object is, and its public plain attributes, under names such as `loss` and `loss#pixel_weight`."""
    attributes = {key: value for key, value in getattr(thing, "__dict__", {}).items() if not key.startswith("_")}
    attributes.pop("training", None)  # the mode of a module
    return {
        name: getattr(thing, "name", None) or getattr(thing, "__qualname__", type(thing).__name__),
        **{f"{name}#{key}": _plain(value) for key, value in attributes.items() if _is_plain(value)},
    }


def optimizer_settings(optimizer: Optimizer, *, name: str = "optimizer", rate: str = "learning_rate") -> dict[str, Any]:
    """Kind, learning rate (where it has a schedule, that which it scales) and options such as `optimizer#betas`.

    Args:
        optimizer: what to describe.
        name: what its options are called after.
        rate: what its learning rate is called.
    """
    groups = optimizer.param_groups
    settings = {name: type(optimizer).__name__, rate: _joined([float(g.get("initial_lr", g["lr"])) for g in groups])}
    for key in groups[0]:
        values = [group.get(key) for group in groups]
        if key not in _NOT_OF_THE_MATHEMATICS and all(_is_plain(value) for value in values):
            settings[f"{name}#{key}"] = _joined([_plain(value) for value in values])
    return settings


def _joined(values: list[Any]) -> Any:
    """One value where all groups of parameters have the same."""
    return values[0] if all(value == values[0] for value in values) else values


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value
