"""From a study to its runs: what is trained on what and measured how, known before anything is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsegdiff import __version__
from medsegdiff.compare.digests import digest_of, digest_of_values
from medsegdiff.compare.draft import (
    DATA_SEED,
    Draft,
    Parts,
    data_overrides,
    digest_of_cases,
    evaluate_overrides,
    files_of,
)
from medsegdiff.compare.runs import ENSEMBLE_SIGN, Probe, Run, Sampling
from medsegdiff.compare.study import Evaluation, Study
from medsegdiff.data.bundle_config import EVALUATE_CONFIG, TRAIN_CONFIG, read_bundle_config
from medsegdiff.data.splits import PARTS
from medsegdiff.errors import DataError, SpecError, plain_user_errors
from medsegdiff.inferers.loading import resolve_device


@dataclass(frozen=True, eq=False)
class Plan:
    """All runs of a study.

    Attributes:
        study: what was asked for.
        folder: of the results.
        device: to train and to sample on; "auto" for a GPU where there is one.
        parts: for each fold (None for a plain split), the cases of each part.
        runs: in the order in which they are done; ensembles come last.
    """

    study: Study
    folder: Path
    device: str
    parts: Mapping[int | None, Parts]
    runs: tuple[Run, ...]

    def cases(self, run: Run) -> list[dict[str, Any]]:
        """What a run is measured on."""
        return self.parts[run.fold][run.evaluation.part]

    def evaluation_file(self, run: Run, what: Sampling | Probe) -> Path:
        """Where the results of a run stand; see `Run.evaluation_file`."""
        return run.evaluation_file(what, self._measured_on(run))

    def missing(self, run: Run) -> list[Sampling | Probe]:
        """What is not measured of a run yet."""
        return [what for what in run.asked if not self.evaluation_file(run, what).is_file()]

    def evaluate_overrides(self, run: Run) -> dict[str, Any]:
        """Ids of the bundle's `evaluate.json` that decide on what a run is measured."""
        return evaluate_overrides(self.study, run.fold, run.evaluation)

    @functools.cached_property
    def _digests(self) -> dict[tuple[int | None, str], str]:
        return {(fold, part): digest_of_cases(lists[part]) for fold, lists in self.parts.items() for part in PARTS}

    @functools.cached_property
    def _config(self) -> str:
        return digest_of(self.study.bundle / EVALUATE_CONFIG)

    def _measured_on(self, run: Run) -> dict[str, Any]:
        part = run.evaluation.part
        return {"part": part, "cases": self._digests[run.fold, part], "config": self._config, "version": __version__}


def make_plan(study: Study, folder: str | Path, *, device: str = "auto") -> Plan:
    """Plan a study, and check all that can be checked before anything is trained.

    Args:
        study: what to compare.
        folder: of the results; nothing is written there.
        device: to train and to sample on.

    Raises:
        MedSegDiffError: data, settings, samplers or steps that do not exist or do not fit, a case in two parts, or a
            run's folder that holds a run of other settings.
    """
    folder = Path(folder).resolve()
    resolve_device(device)
    if study.folds and study.dataset_dir is None:
        msg = "folds were asked for without dataset_dir: phantoms have one split; give a dataset_dir, or leave them out"
        raise SpecError(msg)
    parts = {fold: _parts(study, fold) for fold in study.folds or (None,)}
    for fold, lists in parts.items():
        for part in {variant.evaluation.part for variant in study.variants}:
            if not lists[part]:
                where = "" if fold is None else f" of fold {fold}"
                msg = f"the part {part!r}{where} has no case to measure on; choose another part or split_file"
                raise DataError(msg)
    drafts = {variant.label: Draft(study, variant) for variant in study.variants}
    runs: list[Run] = []
    for fold, lists in parts.items():
        for seed in study.seeds:
            made = {label: draft.run(folder, fold, seed, lists, device) for label, draft in drafts.items()}
            made |= {"+".join(names): _ensemble(folder, [made[name] for name in names]) for names in study.ensembles}
            runs += made.values()
    runs.sort(key=lambda run: bool(run.members))
    _check_different(runs)
    for run in runs:
        run.check_folder()
    return Plan(study=study, folder=folder, device=device, parts=parts, runs=tuple(runs))


def _parts(study: Study, fold: int | None) -> Parts:
    overrides = {"bundle_root": str(study.bundle), "datalists#seed": DATA_SEED, **data_overrides(study, fold)}
    parser = read_bundle_config(study.bundle, TRAIN_CONFIG, overrides)
    with plain_user_errors():
        parts: Parts = parser.get_parsed_content("datalists")
    _check_parts(parts)
    return parts


def _check_parts(parts: Parts) -> None:
    """Refuse a case, or a file of one, that is in two parts.

    Raises:
        DataError: there is one; the message names it.
    """
    seen: dict[str, tuple[str, str]] = {}
    for part in PARTS:
        for case in parts[part]:
            for key in {case["case"], *files_of(case["image"]), *files_of(case["label"])}:
                other, name = seen.setdefault(key, (part, case["case"]))
                if other != part:
                    names = name if name == case["case"] else f"{name} and {case['case']}, which share a file,"
                    msg = f"case {names} in both {other} and {part}; mend the split: each case is in one part only"
                    raise DataError(msg)


def _check_different(runs: list[Run]) -> None:
    """Refuse two runs that would be one and the same training.

    Raises:
        SpecError: there are two.
    """
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(run.hash, run)
        if other is not run:
            msg = f"{other.label} and {run.label} have the same settings; change those of one, or take it out"
            raise SpecError(msg)


def _ensemble(folder: Path, members: list[Run]) -> Run:
    """The ensemble of some runs of a fold and seed, sampled as all of its sampling members are.

    Raises:
        SpecError: they have no sampling in common, or are measured on different parts.
    """
    first = members[0]
    name = ENSEMBLE_SIGN.join(member.options or member.method for member in members)
    sampling = [member.samplings for member in members if member.samplings[0].sampler]
    shared = [one for one in (sampling or [first.samplings])[0] if all(one in others for others in sampling)]
    if not shared or len({(m.evaluation.part, digest_of_values(dict(m.evaluation.settings))) for m in members}) > 1:
        msg = (
            f"the ensemble {name} has members that are measured differently; give them a sampler, steps, draws and "
            "seed in common, and the same part and settings of evaluation"
        )
        raise SpecError(msg)
    evaluation = Evaluation(part=first.evaluation.part, settings=first.evaluation.settings)
    settings = {"members": [member.hash for member in members], "version": __version__}
    key = digest_of_values(settings)
    return Run(
        method=name,
        options="",
        fold=first.fold,
        seed=first.seed,
        hash=key,
        settings=settings,
        folder=folder / "runs" / key,
        evaluation=evaluation,
        samplings=tuple(shared),
        members=tuple(members),
    )
