"""The typed description of a run: all that is needed to build its network again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsegdiff import __version__
from medsegdiff.errors import SpecError, WeightsError
from medsegdiff.files import written_whole

SIZES = ("small", "paper")
# What must agree for weights to fit a network; the rest says how it is used or where it comes from.
IDENTITY_FIELDS = ("task", "method", "size", "spatial_dims", "in_channels", "class_names", "options", "schedule")


@dataclass(frozen=True)
class RunSpec:
    """What a network is and how it samples; written as `model.json` beside every `model.pt`.

    Attributes:
        task: name of the bundle.
        method: name of a method, see `medsegdiff.methods.METHODS`.
        size: "small" (trains on a CPU) or "paper".
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        class_names: names of the classes, the background first.
        roi_size: spatial size that the network is trained at.
        options: further options of the method's network, such as `{"transformer": False}`.
        schedule: name and settings of a noise schedule in place of the method's own.
        prediction_options: what the network predicts, and settings of it, in place of the method's own: such as
            `{"name": "epsilon"}`, or `{"clip_x_0": True}` for networks that predict the noise and sample in few steps.
        sampler: "ddpm", "ddim" or "dpm_solver++".
        sampler_options: further options of the sampler.
        steps: number of visited time steps.
        draws: number of segmentations averaged.
        split: name of the split that it was trained on.
        training_data: what it was trained on, see `medsegdiff.methods.training_data`; None where nobody says.
        version: of the package that wrote it.

    Raises:
        SpecError: a value out of range.
    """

    task: str
    method: str
    size: str
    spatial_dims: int
    in_channels: int
    class_names: Sequence[str]
    roi_size: Sequence[int]
    options: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] | None = None
    prediction_options: dict[str, Any] = field(default_factory=dict)
    sampler: str = "ddpm"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    steps: int = 5
    draws: int = 1
    split: str | None = None
    training_data: list[dict[str, str]] | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        # Lists and tuples are one to JSON; comparing specs must not see a difference.
        object.__setattr__(self, "class_names", list(self.class_names))
        object.__setattr__(self, "roi_size", list(self.roi_size))
        for name in ("options", "schedule", "prediction_options", "sampler_options"):
            object.__setattr__(self, name, _as_json(getattr(self, name)))
        if self.size not in SIZES:
            msg = f"size {self.size!r} does not exist; use one of {', '.join(SIZES)}"
            raise SpecError(msg)
        if self.spatial_dims not in (2, 3) or len(self.roi_size) != self.spatial_dims or min(self.roi_size) < 1:
            msg = (
                f"got spatial_dims={self.spatial_dims} with roi_size={self.roi_size}; "
                "allowed are 2 or 3 with as many sizes of at least 1"
            )
            raise SpecError(msg)
        if self.in_channels < 1 or len(self.class_names) < 2:
            msg = (
                f"got in_channels={self.in_channels} and class_names={self.class_names}; "
                "a task has at least one channel and two classes, background first"
            )
            raise SpecError(msg)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    def replace(self, **changes: Any) -> RunSpec:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return dataclasses.asdict(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all.

        Raises:
            DataError: the file cannot be written.
        """
        with written_whole(path, advice="free space, or choose another folder") as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunSpec:
        """Read what `write` wrote.

        Raises:
            WeightsError: no such file, not JSON, or fields that this version does not know.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            msg = f"{path} does not exist; every model.pt needs the model.json that was written beside it"
            raise WeightsError(msg) from None
        except (OSError, ValueError) as error:
            msg = f"{path} cannot be read as JSON ({error}); copy the model.json that was written beside the weights"
            raise WeightsError(msg) from error
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - known:
            unknown = sorted(set(values) - known) if isinstance(values, dict) else type(values).__name__
            msg = f"{path} holds {unknown}, which version {__version__} does not know; update medsegdiff"
            raise WeightsError(msg)
        try:
            return cls(**values)
        except TypeError as error:
            msg = f"{path} is not a complete model.json ({error}); copy the one written beside the weights"
            raise WeightsError(msg) from error

    def require_match(self, wanted: dict[str, Any], *, where: str) -> None:
        """Refuse weights of another run.

        Args:
            wanted: fields of `IDENTITY_FIELDS` and the values asked for; None asks for nothing.
            where: the weights' path, for the message.

        Raises:
            WeightsError: a field differs; the message names it.
            SpecError: a name that is none of `IDENTITY_FIELDS`.
        """
        for name, given in wanted.items():
            if name not in IDENTITY_FIELDS:
                msg = f"weights cannot be asked for by {name!r}; use one of {', '.join(IDENTITY_FIELDS)}"
                raise SpecError(msg)
            value, found = _as_json(given), getattr(self, name)
            if value is not None and value != found:
                msg = (
                    f"{where} was trained with {name}={found!r}, but {name}={value!r} is asked for; "
                    f"give weights of that {name}, or leave {name} out to use these"
                )
                raise WeightsError(msg)


def _as_json(value: Any) -> Any:
    """The value as it comes back from JSON: tuples as lists, at any depth."""
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, (list, tuple)) else value
