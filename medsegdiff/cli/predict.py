"""`medsegdiff predict`: image files in, label maps on the same grids out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsegdiff.errors import USER_ERROR_EXIT_CODE, DataError, MedSegDiffError, one_line

if TYPE_CHECKING:
    from medsegdiff.inferers.predictor import BundlePredictor, CasePrediction


def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Images (NIfTI, MetaImage, NRRD, PNG, TIFF, JPEG), folders of images, or folders of one DICOM series.",
        ),
    ],
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    output: Annotated[Path, typer.Option(help="Folder for the results; made where it does not exist.")],
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write class probabilities.")] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write entropy, and variance over draws where there are several.")
    ] = False,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Use all weights of the bundle together.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Weights in place of the bundle's.")] = None,
    method: Annotated[str | None, typer.Option(help="Method that the weights must be of.")] = None,
    size: Annotated[str | None, typer.Option(help="Size that the weights must be of: small or paper.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler: ddpm, ddim or dpm_solver++.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of sampling steps.")] = None,
    draws: Annotated[int | None, typer.Option(help="Number of segmentations to average.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, or cuda.")] = "auto",
    amp: Annotated[str, typer.Option(help="Precision: auto, bf16, fp16 or off.")] = "auto",
) -> None:
    """Segment images.

    For each image NAME the label map NAME.nii.gz (for pictures NAME.png) goes into the output folder, on the grid of
    the image; NAME_probabilities, NAME_entropy (0 to 1) and NAME_variance (the largest variance over draws of any
    class's probability) where asked for. report.json tells settings, volumes, times and what went wrong. A file that
    cannot be segmented is reported in one line and the rest goes on; the exit code is then 2.
    """
    # Imported here: torch and MONAI take seconds, which --help need not.
    from medsegdiff.cli.run_report import write_report
    from medsegdiff.data.writer import make_folder

    started = time.perf_counter()
    make_folder(output)
    cases, failures = _expand(inputs)
    names = _check_names(cases, output, probabilities=probabilities, uncertainty=uncertainty)
    report: dict[str, Any] = {"bundle": str(bundle), "cases": failures}
    for failure in failures:
        _say(f"error: {failure['error']}")
    if not cases:
        raise typer.Exit(USER_ERROR_EXIT_CODE)

    predictor = _load(
        bundle,
        weights=weights,
        method=method,
        size=size,
        ensemble=ensemble,
        device=device,
        amp=amp,
        seed=seed,
        steps=steps,
        sampler=sampler,
        draws=draws,
    )
    for warning in _warnings(predictor, steps=steps, sampler=sampler, draws=draws, uncertainty=uncertainty):
        _say(f"warning: {warning}")
    report |= {"settings": predictor.settings, "seconds_to_load": round(time.perf_counter() - started, 3)}
    try:
        for path, name in _progress(list(zip(cases, names, strict=True))):
            entry = _run_case(predictor, path, output / name, probabilities=probabilities, uncertainty=uncertainty)
            report["cases"].append(entry)
            if "error" in entry:
                _say(f"error: {entry['error']}")
    finally:
        # What was done until an interruption is worth a report too.
        write_report(_complete(report, started), output)
    if any("error" in entry for entry in report["cases"]):
        raise typer.Exit(USER_ERROR_EXIT_CODE)


def _load(bundle: Path, **options: Any) -> BundlePredictor:
    from medsegdiff.inferers.predictor import BundlePredictor

    return BundlePredictor(bundle, **options)


def _expand(inputs: Sequence[Path]) -> tuple[list[Path], list[dict[str, Any]]]:
    """All cases that the inputs stand for, each once, and report entries of the inputs that stand for none."""
    from medsegdiff.data.inputs import find_images

    cases: dict[Path, Path] = {}
    failures = []
    for path in inputs:
        try:
            for case in find_images(path):
                cases.setdefault(Path(os.path.abspath(case)), case)
        except DataError as error:
            failures.append({"input": str(path), "status": "failed", "error": one_line(error)})
    return list(cases.values()), failures


def _check_names(cases: Sequence[Path], output: Path, *, probabilities: bool, uncertainty: bool) -> list[str]:
    """A name for each case, once it is known that no result would replace an input or another result."""
    from medsegdiff.data.inputs import unique_names

    names = unique_names(cases)
    taken = {case.resolve(): f"the input {case}" for case in cases}
    for case, name in zip(cases, names, strict=True):
        for path in _output_paths(case, output / name, probabilities=probabilities, uncertainty=uncertainty).values():
            owner = taken.setdefault(path.resolve(), f"a result of {case}")
            if owner != f"a result of {case}":
                msg = f"a result of {case} would replace {owner}; name another --output folder, or rename an input"
                raise DataError(msg)
    return names


def _output_paths(case: Path, stem: Path, *, probabilities: bool, uncertainty: bool) -> dict[str, Path]:
    from medsegdiff.data.reading import PICTURE_SUFFIXES, image_suffix

    label_suffix, map_suffix = (".png", ".tif") if image_suffix(case) in PICTURE_SUFFIXES else (".nii.gz", ".nii.gz")
    maps = ["probabilities"] * probabilities + ["entropy", "variance"] * uncertainty
    paths = {"label": stem.with_name(f"{stem.name}{label_suffix}")}
    return paths | {kind: stem.with_name(f"{stem.name}_{kind}{map_suffix}") for kind in maps}


def _run_case(
    predictor: BundlePredictor, path: Path, stem: Path, *, probabilities: bool, uncertainty: bool
) -> dict[str, Any]:
    """Segment one case and write its results; its entry in the report."""
    from medsegdiff.data.writer import write_images

    entry: dict[str, Any] = {"input": str(path), "status": "failed"}
    try:
        result = predictor.predict(path)
        started = time.perf_counter()
        arrays = {"label": result.label[None], "probabilities": result.probabilities, "entropy": result.entropy[None]}
        if result.variance is not None:
            arrays["variance"] = result.variance[None]
        paths = _output_paths(path, stem, probabilities=probabilities, uncertainty=uncertainty)
        paths = {kind: file for kind, file in paths.items() if kind in arrays}
        write_images({file: arrays[kind] for kind, file in paths.items()}, affine=result.affine, like=path)
    except MedSegDiffError as error:
        return entry | {"error": one_line(error)}
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        hint = "try --device cpu, --amp bf16, fewer --draws, or a machine with more of it"
        return entry | {"error": f"{path}: the memory does not suffice for this image; {hint}"}
    seconds = result.stage_seconds | {"write": time.perf_counter() - started}
    return entry | {
        "status": "done",
        "outputs": {kind: str(file) for kind, file in paths.items()},
        "volumes": _volumes(result, predictor.class_names, picture=paths["label"].suffix == ".png"),
        "stage_seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }


def _volumes(result: CasePrediction, class_names: Sequence[str], *, picture: bool) -> dict[str, dict[str, Any]]:
    """Voxels of each class but the background, and millilitres where voxels have a size."""
    import numpy as np

    counts = np.bincount(result.label.ravel(), minlength=len(class_names))
    ml = abs(float(np.linalg.det(result.affine[:3, :3]))) / 1000
    return {
        name: {"voxels": int(count)} | ({} if picture else {"ml": round(int(count) * ml, 4)})
        for name, count in zip(class_names[1:], counts[1:], strict=True)
    }


def _warnings(
    predictor: BundlePredictor, *, steps: int | None, sampler: str | None, draws: int | None, uncertainty: bool
) -> list[str]:
    """What was asked for and has no effect."""
    given = {"--steps": steps, "--sampler": sampler, "--draws": draws}
    ignored = [option for option, value in given.items() if value is not None]
    found = []
    if ignored and predictor.network.supervised:
        verb = "have" if len(ignored) > 1 else "has"
        found.append(f"{', '.join(ignored)} {verb} no effect: this network is supervised and segments in one call")
    if uncertainty and sum(member.get("draws", 1) for member in predictor.settings["members"]) < 2:
        hint = "use --ensemble" if predictor.network.supervised else "give --draws 2 or more"
        found.append(f"no variance is written, since there is one draw only: {hint}")
    return found


def _complete(report: dict[str, Any], started: float) -> dict[str, Any]:
    from medsegdiff.cli.run_report import peak_memory_mib, versions

    failed = sum("error" in entry for entry in report["cases"])
    return {
        "versions": versions(),
        **report,
        "done": len(report["cases"]) - failed,
        "failed": failed,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_mib": peak_memory_mib(),
    }


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "not enough memory" in str(error)


def _progress(cases: Sequence[tuple[Path, str]]) -> Any:
    from tqdm import tqdm

    return tqdm(cases, unit="case", file=sys.stderr, disable=None)


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
