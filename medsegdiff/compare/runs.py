"""One run of a study: what it is, how it is sampled, and what its folder says has become of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medsegdiff.compare.digests import digest_of_values
from medsegdiff.compare.study import Budget, Evaluation
from medsegdiff.data.splits import write_json
from medsegdiff.errors import SpecError
from medsegdiff.handlers.validation import WEIGHTS_NAME, weights_path
from medsegdiff.methods import RunSpec

ENSEMBLE_SIGN = "+"
"""Between the members in the name of an ensemble's method, such as "supervised+recycling"."""
DONE, FAILED, UNFINISHED, TO_DO = "done", "failed", "unfinished", "to do"


@dataclass(frozen=True)
class Sampling:
    """One way to sample a trained network; a supervised one has no sampler, one step and one draw."""

    sampler: str
    steps: int
    draws: int
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.sampler.replace('+', 'p') or 'once'}-{self.steps}-steps-{self.draws}-draws-seed-{self.seed}"


@dataclass(frozen=True)
class Probe:
    """One prediction at `t`, from the x_t of the truth and from pure noise."""

    t: int
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"probe-{self.t}-seed-{self.seed}"


@dataclass(frozen=True, eq=False)
class Training:
    """How a run is trained.

    Attributes:
        bundle: folder of the bundle.
        arguments: ids of its `train.json` and their values; all but the number of epochs.
        spec: of the network.
        parameters: how many the network has.
        num_train_timesteps: T of its schedule; None for a supervised network.
        cases: of the training part.
        batches: of an epoch.
        batch_size: samples a batch.
        accumulation: batches an optimiser step.
        budget: of the study.
    """

    bundle: Path
    arguments: Mapping[str, Any]
    spec: RunSpec
    parameters: int
    num_train_timesteps: int | None
    cases: int
    batches: int
    batch_size: int
    accumulation: int
    budget: Budget

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in an epoch."""
        return -(-self.batches // self.accumulation)

    def epochs(self, steps: float) -> int:
        """The whole epochs that fit into so many optimiser steps; one where none does."""
        return max(1, int(steps) // self.steps_per_epoch)


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network of a study, or an ensemble of several.

    Attributes:
        method: its name; for an ensemble the labels of its members, such as "supervised+recycling".
        options: the study's name of the variant; empty for a plain method and for an ensemble.
        fold: the fold that is its test part; None without.
        seed: of its training.
        hash: of `settings`.
        settings: all that decides the result of training.
        folder: where it lies.
        evaluation: what is measured of it.
        samplings: in which it is measured.
        probes: at which it is measured.
        training: None for an ensemble.
        members: of an ensemble.
    """

    method: str
    options: str
    fold: int | None
    seed: int
    hash: str
    settings: Mapping[str, Any]
    folder: Path
    evaluation: Evaluation
    samplings: tuple[Sampling, ...]
    probes: tuple[Probe, ...] = ()
    training: Training | None = None
    members: tuple[Run, ...] = field(default=())

    @property
    def label(self) -> str:
        """For people."""
        where = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.options or self.method}{where}, seed {self.seed}"

    @property
    def asked(self) -> tuple[Sampling | Probe, ...]:
        """All that is to be measured of it."""
        return (*self.samplings, *self.probes)

    @property
    def weights(self) -> dict[str, Path]:
        """Where training writes weights: its own sampler's best by "", those of others that it validates by theirs."""
        if self.training is None:
            return {}
        names = self.training.arguments.get("val_samplers") or ()
        further = [names] if isinstance(names, str) else names
        folder = self.folder / "training"
        return {"": folder / WEIGHTS_NAME, **{name: weights_path(folder, name) for name in further}}

    def weights_for(self, what: Sampling | Probe) -> list[Path]:
        """The weights, of each member, that are measured so: those that its sampler found best where training looked.

        Probes, which are of no sampler, take the run's own.
        """
        return [member.weights[member._chosen_for(what)] for member in self.members or (self,)]

    def _chosen_for(self, what: Sampling | Probe) -> str:
        """Whose best weights of `weights`."""
        sampler = what.sampler if isinstance(what, Sampling) else ""
        return sampler if sampler in self.weights else ""

    @property
    def log(self) -> Path:
        """What training prints, and what went wrong."""
        return self.folder / "log.txt"

    @property
    def state(self) -> str:
        """What has become of training: "done", "failed", "unfinished" or "to do"; an ensemble waits for its members."""
        if self.members:
            return DONE if all(member.state == DONE for member in self.members) else TO_DO
        if self.record(DONE):
            return DONE
        if self.record(FAILED):
            return FAILED
        return UNFINISHED if (self.folder / "training" / "checkpoint.pt").is_file() else TO_DO

    def record(self, kind: str) -> dict[str, Any]:
        """What `write_record` wrote of this kind; empty where nothing is there."""
        return read_json(self.folder / f"{kind}.json")

    def write_record(self, kind: str, content: Mapping[str, Any]) -> None:
        """Write down that the run is "done" or "failed", which it is instead of the other."""
        for other in {DONE, FAILED} - {kind}:
            (self.folder / f"{other}.json").unlink(missing_ok=True)
        write_json(self.folder / f"{kind}.json", content)

    def check_folder(self) -> None:
        """Refuse a folder that holds a run of other settings.

        Raises:
            SpecError: it does; the message names the first setting that differs.
        """
        path = self.folder / "settings.json"
        if not path.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                msg = f"{self.folder} has no settings.json that says what it is; remove it, or choose another --output"
                raise SpecError(msg)
            return
        found, wanted = read_json(path), json.loads(json.dumps(self.settings, default=str))
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                msg = (
                    f"{self.folder} holds a run with {name}={found.get(name)!r}, the study says {wanted.get(name)!r}; "
                    "remove the folder to have it trained again, or choose another --output"
                )
                raise SpecError(msg)

    def prepare_folder(self) -> None:
        """Make the folder, with the settings in it."""
        if not (self.folder / "settings.json").is_file():
            write_json(self.folder / "settings.json", json.loads(json.dumps(self.settings, default=str)))

    def evaluation_file(self, what: Sampling | Probe, data: Mapping[str, Any]) -> Path:
        """Where the results of a sampling or of a probe stand; another name for whatever would change them.

        Args:
            what: was measured.
            data: says on what: the cases, and the bundle's way to evaluate.
        """
        # After how many steps a sampling is measured is no matter of a probe, and the rest of the study of neither.
        steps = self.evaluation.measured_steps(what.steps) if isinstance(what, Sampling) else ()
        identity = {
            "what": asdict(what),
            "steps": steps,
            "settings": self.evaluation.settings,
            "weights": [
                record.get("weights_of", {}).get(member._chosen_for(what), record.get("weights"))
                for member in self.members or (self,)
                for record in [member.record(DONE)]
            ],
            **data,
        }
        return self.folder / "evaluations" / f"{what.name}-{digest_of_values(identity)}.json"


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of this package; empty where there is none, or where a disk that was full broke it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
