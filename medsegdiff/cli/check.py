"""`medsegdiff check`: what a folder of images and labels is like, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medsegdiff.data.fingerprint import Fingerprint


def check(
    dataset_dir: Annotated[
        Path,
        typer.Argument(help="Folder with dataset.json, or with imagesTr and labelsTr; volumes (NIfTI, …) or pictures."),
    ],
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of a bundle whose axes, channels and classes the cases must have.")
    ] = None,
    split_file: Annotated[
        Path | None, typer.Option(help="Which case is in which part; default: the bundle's, else the data set's own.")
    ] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Which fold of a file of folds is the test part.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of a split without a file.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file to write the fingerprint to.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each has one case in memory.")] = 1,
) -> None:
    """Check a data set before training: print its fingerprint, and a line for everything that does not fit.

    With an error, training would fail or be wrong, and the exit code is 2; a warning should be looked at; a note is
    good to know.
    """
    # Imported here: what reads images takes a while, which --help need not.
    from medsegdiff.data.fingerprint import fingerprint_dataset
    from medsegdiff.data.fingerprint_tables import write_fingerprint

    fingerprint = fingerprint_dataset(
        dataset_dir, bundle=bundle, split_file=split_file, fold=fold, seed=seed, workers=workers
    )
    typer.echo("\n".join(_lines(fingerprint)))
    if json_file is not None:
        write_fingerprint(fingerprint, json_file)
        typer.echo(f"wrote {json_file}")
    fingerprint.require_sound()


def _lines(fingerprint: Fingerprint) -> list[str]:
    from medsegdiff.data.fingerprint_tables import fingerprint_tables

    lines = [f"{fingerprint.dataset_dir}: {len(fingerprint.cases)} cases, {fingerprint.expected.spatial_dims}-D"]
    for title, table in fingerprint_tables(fingerprint).items():
        lines += ["", title, table.to_string(index=False, float_format=_number)]
    numbers = [(fingerprint.count("error"), "errors"), (fingerprint.count("warning"), "warnings")]
    numbers.append((fingerprint.count("note"), "notes"))
    return [*lines, "", *map(str, fingerprint.remarks), ", ".join(f"{count} {what}" for count, what in numbers)]


def _number(value: float) -> str:
    """At most four digits, never a power of ten where whole numbers are read more easily."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
