"""One variant of a study, its network built once: how it is trained and sampled, and whether it can be at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medsegdiff import __version__
from medsegdiff.compare.digests import digest_of, digest_of_values
from medsegdiff.compare.runs import Probe, Run, Sampling, Training
from medsegdiff.compare.study import EACH_SAMPLER, Evaluation, Study, Variant
from medsegdiff.data.bundle_config import EVALUATE_CONFIG, TRAIN_CONFIG, read_bundle_config
from medsegdiff.errors import SpecError, find_user_error, one_line
from medsegdiff.methods import RunSpec, build_segmenter
from medsegdiff.networks.segmenter import DiffusionSegmenter

# Phantoms, and splits that no file gives, are the same for all seeds of training: else runs could not be compared.
DATA_SEED = 0

Parts = dict[str, list[dict[str, Any]]]


class Draft:
    """A variant whose network was built once, which shows whether its settings are any good.

    Raises:
        SpecError: they are not; or a sampling that the network cannot do.
    """

    def __init__(self, study: Study, variant: Variant) -> None:
        self.study = study
        self.variant = variant
        self._arguments = {
            "bundle_root": str(study.bundle),
            "method": variant.method,
            **({} if study.size is None else {"size": study.size}),
            "datalists#seed": DATA_SEED,
            **variant.settings,
        }
        self._lengths: dict[int | None, tuple[int, int, int]] = {}
        # Ids of the evaluation are needed in the end, which is no time to learn that one does not exist.
        evaluating = evaluate_overrides(study, None, variant.evaluation) | {"weights": None, "device": None}
        read_bundle_config(study.bundle, EVALUATE_CONFIG, evaluating)
        # Any fold will do, but a file of folds can be read with one only.
        fold = study.folds[0] if study.folds else None
        arguments = self._all_arguments(Path(), fold, study.seeds[0], "cpu") | {"epochs": 1}
        parser = read_bundle_config(study.bundle, TRAIN_CONFIG, arguments)
        with self._settings_to_blame("network"):
            self.spec: RunSpec = parser.get_parsed_content("spec")
            network = build_segmenter(self.spec)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.num_train_timesteps = None if network.schedule is None else network.schedule.num_train_timesteps
        self.samplings = _samplings(network, variant)
        further = {one.sampler for one in self.samplings} - {"", self.spec.sampler}
        # Not among the settings of other studies, whose runs are named by them.
        self._validated = {"val_samplers": sorted(further)} if study.weights == EACH_SAMPLER and further else {}
        self._arguments |= self._validated
        self.probes = _probes(network, variant)

    def run(self, folder: Path, fold: int | None, seed: int, parts: Parts, device: str) -> Run:
        """The run of a fold and seed."""
        study, variant = self.study, self.variant
        batches, batch_size, accumulation = self._length(fold, parts)
        settings = {
            "bundle": self.spec.task,
            "config": digest_of(study.bundle / TRAIN_CONFIG),
            "method": variant.method,
            "size": self.spec.size,
            "settings": {**variant.settings, **_digests(variant.settings), **self._validated},
            "data": "phantoms" if study.dataset_dir is None else "cases",
            "training": digest_of_cases(parts["training"]),
            "validation": digest_of_cases(parts["validation"]),
            "fold": fold,
            "seed": seed,
            "budget": asdict(study.budget),
            "network": {name: value for name, value in self.spec.to_dict().items() if name != "split"},
            "version": __version__,
        }
        key = digest_of_values(settings)
        run_folder = folder / "runs" / key
        return Run(
            method=variant.method,
            options=variant.name,
            fold=fold,
            seed=seed,
            hash=key,
            settings=settings,
            folder=run_folder,
            evaluation=variant.evaluation,
            samplings=self.samplings,
            probes=self.probes,
            training=Training(
                bundle=study.bundle,
                arguments=self._all_arguments(run_folder / "training", fold, seed, device),
                spec=self.spec,
                parameters=self.parameters,
                num_train_timesteps=self.num_train_timesteps,
                cases=len(parts["training"]),
                batches=batches,
                batch_size=batch_size,
                accumulation=accumulation,
                budget=study.budget,
            ),
        )

    def _all_arguments(self, run_dir: Path, fold: int | None, seed: int, device: str) -> dict[str, Any]:
        arguments = {**self._arguments, **data_overrides(self.study, fold), "seed": seed, "run_dir": str(run_dir)}
        return arguments | {"resume": True} | ({} if device == "auto" else {"device": device})

    def _length(self, fold: int | None, parts: Parts) -> tuple[int, int, int]:
        """Batches an epoch, samples a batch, and batches an optimiser step."""
        if fold not in self._lengths:
            arguments = self._all_arguments(Path(), fold, self.study.seeds[0], "cpu")
            parser = read_bundle_config(self.study.bundle, TRAIN_CONFIG, arguments)
            parser["datalists"] = parts
            parser["train#dataset#cache_rate"] = 0.0  # its cases are not looked at here
            with self._settings_to_blame("data loader"):
                batches = len(parser.get_parsed_content("train#dataloader"))
                batch_size, accumulation = (
                    int(parser.get_parsed_content(name)) if name in parser else 1
                    for name in ("batch_size", "accumulation_steps")
                )
            self._lengths[fold] = (batches, batch_size, accumulation)
        return self._lengths[fold]

    @contextlib.contextmanager
    def _settings_to_blame(self, what: str) -> Iterator[None]:
        """Say of which variant the settings are that do not make a network or a data loader."""
        try:
            yield
        except (TypeError, ValueError, RuntimeError) as error:
            reason = one_line(find_user_error(error) or error.__cause__ or error)
            msg = f"{self.variant.label}: its settings make no {what} ({reason}); mend them in the study"
            raise SpecError(msg) from error


def evaluate_overrides(study: Study, fold: int | None, evaluation: Evaluation) -> dict[str, Any]:
    """Ids of the bundle's `evaluate.json` that decide on what, and how, a run of a fold is measured."""
    overrides = {"bundle_root": str(study.bundle), "datalist#seed": DATA_SEED, "part": evaluation.part}
    return {**overrides, **data_overrides(study, fold), **evaluation.settings}


def data_overrides(study: Study, fold: int | None) -> dict[str, Any]:
    """Ids of the bundle's `train.json` and `evaluate.json` that say which cases are of which part."""
    overrides: dict[str, Any] = {}
    if study.dataset_dir is not None:
        overrides["dataset_dir"] = str(study.dataset_dir)
    split_file = study.split_file
    if fold is not None:
        overrides["fold"] = fold
        folds = study.bundle / "configs" / "folds.json"
        # The bundle's own split file is one of a plain split; without any, `dataset.json` or a seed makes folds.
        overrides["split_file"] = str(folds) if folds.is_file() else None
    return overrides if split_file is None else overrides | {"split_file": str(split_file)}


def digest_of_cases(cases: list[dict[str, Any]]) -> str:
    """A digest of cases by their names, what their labels hold and how large their images are.

    A label may be corrected and stay as large as it was. To read all images would take minutes; their time of change
    is no measure, since a copy of the data is the same data.
    """
    return digest_of_values(sorted([case["case"], *_sizes(case["image"]), *_contents(case["label"])] for case in cases))


def _samplings(network: DiffusionSegmenter, variant: Variant) -> tuple[Sampling, ...]:
    evaluation = variant.evaluation
    if network.supervised:
        return (Sampling("", 1, 1, evaluation.seeds[0]),)
    samplings = tuple(
        Sampling(sampler, steps, draws, seed)
        for sampler in evaluation.samplers or (network.sampler,)
        for steps in evaluation.steps or (network.steps,)
        for draws in evaluation.draws or (network.draws,)
        for seed in evaluation.seeds
    )
    for sampling in samplings:
        try:
            network.set_sampling(sampler=sampling.sampler, steps=sampling.steps)
        except SpecError as error:
            msg = f"{variant.label}: {one_line(error)}; an evaluation of its own in the study may say otherwise"
            raise SpecError(msg) from error
    return samplings


def _probes(network: DiffusionSegmenter, variant: Variant) -> tuple[Probe, ...]:
    if network.schedule is None:
        return ()
    for t in variant.evaluation.probe_t:
        if t >= network.schedule.num_train_timesteps:
            msg = (
                f"{variant.label}: probe_t is {t}; its schedule has the time steps 0 to "
                f"{network.schedule.num_train_timesteps - 1}: give its evaluation one of these, or null"
            )
            raise SpecError(msg)
    return tuple(Probe(t, seed) for t in variant.evaluation.probe_t for seed in variant.evaluation.seeds)


def _digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """Of the weights that training starts from: their content decides, not their place."""
    weights = settings.get("init_weights")
    return {"init_weights": digest_of(Path(weights))} if weights and Path(weights).is_file() else {}


def files_of(path: str | list[str]) -> list[str]:
    """The absolute paths of the files of an image."""
    return [str(Path(file).resolve()) for file in (path if isinstance(path, list) else [path])]


def _sizes(path: str | list[str]) -> list[int]:
    return [Path(file).stat().st_size for file in files_of(path)]


def _contents(path: str | list[str]) -> list[str]:
    return [digest_of(Path(file)) for file in files_of(path)]
