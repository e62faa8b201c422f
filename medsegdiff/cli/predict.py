"""`medsegdiff predict`: image files in, label maps on the same grids out."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsegdiff.errors import USER_ERROR_EXIT_CODE, DataError, SpecError, one_line

if TYPE_CHECKING:
    from medsegdiff.cohort.case import Case
    from medsegdiff.cohort.engine import Engine
    from medsegdiff.cohort.run import CohortRun
    from medsegdiff.data.modalities import Modalities

DEFECT_EXIT_CODE = 1
ENGINES = ("in-process", "ray")
MANY_CASES = "Many cases"  # a heading in --help


def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Images (NIfTI, MetaImage, NRRD, PNG, TIFF, JPEG), folders of images, or folders of one DICOM series. "
            "Files of one modality each are put together by their names: CASE_t1.nii.gz, CASE_flair.nii.gz.",
        ),
    ],
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    output: Annotated[Path, typer.Option(help="Folder for the results; made where it does not exist.")],
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write class probabilities.")] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write entropy, and variance over draws where there are several.")
    ] = False,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Also write a picture of key slices, and a page to look through in a browser."),
    ] = False,
    output_format: Annotated[
        str,
        typer.Option(help="Of label maps: nifti (pictures as PNG), or dicom-seg for folders of one DICOM series."),
    ] = "nifti",
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Use all weights of the bundle together.")] = False,
    fusion: Annotated[
        str | None,
        typer.Option(help="How an ensemble, or the draws of one network, answer: mean, majority or staple."),
    ] = None,
    fuse_draws: Annotated[
        bool | None,
        typer.Option(
            "--fuse-draws/--fuse-members",
            help="What majority and staple fuse; default: members where there are several.",
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Weights in place of the bundle's; several, such as those of folds, make an ensemble."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Method that the weights must be of.")] = None,
    size: Annotated[str | None, typer.Option(help="Size that the weights must be of: small or paper.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Sampler: ddpm, ddim or dpm_solver++.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of sampling steps.")] = None,
    draws: Annotated[int | None, typer.Option(help="Number of segmentations to average.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, or cuda.")] = "auto",
    amp: Annotated[str, typer.Option(help="Precision: auto, bf16, fp16 or off.")] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="ID=VALUE",
            help="Set an id of the bundle's inference.json, such as overlap=0.5, memory_budget=4e9 or "
            "average=probabilities; may be given several times.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip cases done with the same settings.", rich_help_panel=MANY_CASES),
    ] = False,
    engine: Annotated[
        str, typer.Option(help="in-process, or ray for several workers.", rich_help_panel=MANY_CASES)
    ] = "in-process",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Workers on Ray; default: one a GPU, else one for every 4 cores.", rich_help_panel=MANY_CASES
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT; default: $RAY_ADDRESS, else this machine.",
            rich_help_panel=MANY_CASES,
        ),
    ] = None,
) -> None:
    """Segment images.

    For each image NAME the label map NAME.nii.gz (for pictures NAME.png) goes into the output folder, on the grid of
    the image; NAME_probabilities, NAME_entropy (0 to 1) and NAME_variance (over draws, half the sum over
    classes) where asked for. --pictures adds NAME_picture.png, the slices with most of the foreground, and
    NAME_page.html, which opens offline: all slices, under the segmentation and, with --uncertainty, the entropy. With
    --output-format dicom-seg the label map of a DICOM series is the segmentation NAME.dcm. All results are for research
    use only. report.json tells the model and what it was trained on, settings, volumes, times and what went wrong, with
    names of images and never their folders. A file that cannot be segmented is reported in one line and the rest goes
    on; the exit code is then 2.

    manifest.jsonl notes what becomes of each case as it happens: after a run that was killed, the same command with
    --resume does what is left, and again what was done with other settings or from an image that has changed since.

    With --engine ray, cases are handed out to several workers, and the case of a worker that dies is done again. On a
    cluster, all nodes need this package, and inputs, bundle and output folder under the same paths.
    """
    # Imported here: torch and MONAI take seconds, which --help need not.
    from medsegdiff.cli.run_report import complete_report, write_report
    from medsegdiff.cohort.case import OUTPUT_FORMATS, name_cases
    from medsegdiff.cohort.run import CohortRun
    from medsegdiff.data.modalities import bundle_modalities
    from medsegdiff.data.writer import make_folder
    from medsegdiff.inferers.describe import describe_model
    from medsegdiff.inferers.predictor import CONFIG
    from medsegdiff.view.niivue import niivue_module

    if output_format not in OUTPUT_FORMATS:
        msg = f"output format {output_format!r} does not exist; use one of {', '.join(OUTPUT_FORMATS)}"
        raise SpecError(msg)
    if pictures:
        niivue_module()  # is it installed?
    started = time.perf_counter()
    make_folder(output)
    modalities = bundle_modalities(bundle / CONFIG)
    images, failures = _expand(inputs, modalities)
    kinds = ["label"] + ["probabilities"] * probabilities + ["entropy", "variance"] * uncertainty
    kinds += ["picture", "page"] * pictures
    cases = name_cases(images, output, kinds=kinds, modalities=modalities, output_format=output_format)
    for failure in failures:
        _say(f"error: {failure['error']}")
    if not cases:
        raise typer.Exit(USER_ERROR_EXIT_CODE)
    network = {
        "weights": None if not weights else weights[0] if len(weights) == 1 else weights,
        "method": method,
        "size": size,
        "ensemble": ensemble,
        "device": device,
        "amp": amp,
        "seed": seed,
        "steps": steps,
        "sampler": sampler,
        "draws": draws,
        "fusion": fusion,
        "fuse_draws": fuse_draws,
        "uncertainty": uncertainty,
        "settings": dict(map(_setting, settings or [])),
    }
    chosen = _make_engine(engine, cases, bundle, network, workers=workers, ray_address=ray_address)
    run = CohortRun(cases, chosen, bundle=bundle, say=_say)
    try:
        run.load()
        model = describe_model(bundle, run.settings)
        for warning in _warnings(run.settings, steps=steps, sampler=sampler, draws=draws, uncertainty=uncertainty):
            _say(f"warning: {warning}")
        try:
            _work(run, run.choose(resume=resume))
        finally:
            # What was done until an interruption is worth a report too.
            report = complete_report(run, failures, model=model, seconds=time.perf_counter() - started)
            path = write_report(report, output)
            typer.echo(f"{report['done']} of {len(report['cases'])} cases are segmented; all about them is in {path}")
    finally:
        chosen.close()
    if any("traceback" in entry for entry in report["cases"]):
        raise typer.Exit(DEFECT_EXIT_CODE)
    if report["failed"]:
        raise typer.Exit(USER_ERROR_EXIT_CODE)


def _setting(text: str) -> tuple[str, Any]:
    """An id and its value, which is read as JSON where it is JSON, and as text elsewhere."""
    name, given, value = text.partition("=")
    if not (name and given):
        msg = f"--set got {text!r}; give ID=VALUE, such as --set overlap=0.5"
        raise SpecError(msg)
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _make_engine(
    name: str,
    cases: Sequence[Case],
    bundle: Path,
    network: dict[str, Any],
    *,
    workers: int | None,
    ray_address: str | None,
) -> Engine:
    from medsegdiff.cohort.in_process import InProcess
    from medsegdiff.cohort.on_ray import OnRay
    from medsegdiff.cohort.worker import load_predictor

    if name not in ENGINES:
        msg = f"engine {name!r} does not exist; use one of {', '.join(ENGINES)}"
        raise SpecError(msg)
    if name == "in-process":
        for option, value in (("--workers", workers), ("--ray-address", ray_address)):
            if value is not None:
                msg = f"got {option} {value} with the engine in-process, which is one process; add --engine ray"
                raise SpecError(msg)
        return InProcess(functools.partial(load_predictor, bundle, **network))
    # Processes elsewhere have another working folder.
    weights = network["weights"]
    if isinstance(weights, list):
        weights = [Path(os.path.abspath(file)) for file in weights]
    elif weights is not None:
        weights = Path(os.path.abspath(weights))
    network = {**network, "weights": weights}
    return OnRay(
        functools.partial(load_predictor, Path(os.path.abspath(bundle)), **network),
        workers=workers,
        address=ray_address,
        device=network["device"],
        must_see=[cases[0].folder, cases[0].path],
        say=_say,
    )


def _work(run: CohortRun, cases: Sequence[Case]) -> None:
    """Segment the cases, with a bar for the progress and a line for each that fails."""
    from tqdm import tqdm

    with tqdm(total=len(cases), unit="case", file=sys.stderr, disable=None) as bar:
        for entry in run.work(cases):
            bar.update()
            if "traceback" in entry:
                _say(entry["traceback"])
            if "error" in entry:
                _say(f"error: {entry['error']}")


def _expand(inputs: Sequence[Path], modalities: Modalities | None) -> tuple[list[list[Path]], list[dict[str, Any]]]:
    """The files of all cases that the inputs stand for, each once, and report entries of inputs that stand for none."""
    from medsegdiff.data.inputs import find_cases
    from medsegdiff.data.modalities import group_modalities, image_name
    from medsegdiff.data.reading import case_name

    cases: dict[Path, list[Path]] = {}
    failures: list[dict[str, Any]] = []

    def fail(given: str | list[str], errors: Sequence[DataError]) -> None:
        failures.extend({"input": given, "status": "failed", "error": one_line(error)} for error in errors)

    # Named one by one, the files of a case are told by their names, too.
    single = [path for path in inputs if path.is_file()] if modalities else []
    misfits: list[DataError] = []
    grouped = list(group_modalities(single, modalities, misfits=misfits).values()) if modalities else []
    fail([str(path) for path in single], misfits)
    first_of = {file: files for files in grouped for file in files}
    if misfits:  # a file of theirs is no case by itself
        parts = {path for path in single if path not in first_of and image_name(path, modalities) != case_name(path)}
        inputs = [path for path in inputs if path not in parts]
    for path in inputs:
        misfits = []
        try:
            for files in [first_of[path]] if path in first_of else find_cases(path, modalities, misfits=misfits):
                cases.setdefault(Path(os.path.abspath(files[0])), files)
        except DataError as error:
            misfits.append(error)
        fail(str(path), misfits)
    return list(cases.values()), failures


def _warnings(
    settings: dict[str, Any], *, steps: int | None, sampler: str | None, draws: int | None, uncertainty: bool
) -> list[str]:
    """What was asked for and has no effect."""
    given = {"--steps": steps, "--sampler": sampler, "--draws": draws}
    ignored = [option for option, value in given.items() if value is not None]
    supervised = all("sampler" not in member for member in settings["members"])
    found = []
    if ignored and supervised:
        verb = "have" if len(ignored) > 1 else "has"
        found.append(f"{', '.join(ignored)} {verb} no effect: this network is supervised and segments in one call")
    if uncertainty and sum(member.get("draws", 1) for member in settings["members"]) < 2:
        hint = "use --ensemble" if supervised else "give --draws 2 or more"
        found.append(f"no variance is written, since there is one draw only: {hint}")
    return found


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
