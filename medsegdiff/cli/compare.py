"""`medsegdiff compare`: a study file in; trained methods, tables, pictures and a report out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsegdiff.errors import USER_ERROR_EXIT_CODE

if TYPE_CHECKING:
    from medsegdiff.compare.plan import Plan
    from medsegdiff.compare.runs import Run

OUTPUT = Path("compare_output")


def compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (YAML), such as studies/quick.yaml.")],
    output: Annotated[
        Path | None, typer.Option(help=f"Folder for the results; default: {OUTPUT}/NAME, of the study.")
    ] = None,
    dataset_dir: Annotated[
        Path | None, typer.Option(help="Folder with images and labels, in place of the study's; phantoms without any.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what there is to do and what it costs; write nothing.")
    ] = False,
    time_steps: Annotated[
        bool,
        typer.Option("--time-steps", help="With --dry-run: time a few training steps of each method for the estimate."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[str, typer.Option(help="in-process, or ray.")] = "in-process",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at once; default: one, on Ray one a GPU, else one for every 4 cores."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT; default: $RAY_ADDRESS, else this machine."),
    ] = None,
) -> None:
    """Compare methods: train them, measure them, and write tables, pictures and a report.

    Every training lies in a folder of its own, named by its settings, with its log: what is done is not done again,
    and what was interrupted goes on when the same command is given again. A method that fails is named in the tables,
    and the others go on; the exit code is then 2.

    cases.csv has a row for each case, class, run, way of sampling and step; report.html shows what follows from it.
    """
    # Imported here: torch and MONAI take seconds, which --help need not.
    from medsegdiff.compare.engines import make_engine
    from medsegdiff.compare.plan import make_plan
    from medsegdiff.compare.run import StudyRun, shared_paths
    from medsegdiff.compare.study import read_study
    from medsegdiff.errors import SpecError

    _quiet_readers()
    if time_steps and not dry_run:
        msg = "got --time-steps without --dry-run, whose estimate it is for; add --dry-run, or leave it out"
        raise SpecError(msg)
    asked = read_study(study, dataset_dir=dataset_dir)
    plan = make_plan(asked, output or OUTPUT / asked.name, device=device)
    if dry_run:
        _print_plan(plan, time_steps)
        return
    chosen = make_engine(
        engine,
        workers=workers,
        device=device,
        most=len(plan.runs),
        address=ray_address,
        must_see=shared_paths(plan),
    )
    try:
        failed = StudyRun(plan, chosen, say=_say).do()
    finally:
        chosen.close()
    if failed:
        raise typer.Exit(USER_ERROR_EXIT_CODE)


def _print_plan(plan: Plan, time_steps: bool) -> None:
    from medsegdiff.compare.cost import estimate
    from medsegdiff.compare.describe import describe_plan
    from medsegdiff.compare.timing import measure_step_seconds

    def timed(run: Run) -> float:
        if run.training is None:
            msg = f"{run.label} is not trained"
            raise ValueError(msg)
        return measure_step_seconds(run.training)

    typer.echo(describe_plan(plan, estimate(plan, timed if time_steps else None)))


def _quiet_readers() -> None:
    """Leave out what MONAI 1.6's `LoadImage` says about an optional DICOM decoder, which every case would repeat."""
    import logging
    import warnings

    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
