"""`medsegdiff report`: the tables of a comparison in; its summary, report and figures out, here or for a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison, or of a published one.")],
    publish: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a light copy there, for a repository, and leave the folder as it is."),
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put the results into this Markdown file, at their place.")
    ] = None,
) -> None:
    """Make the report of a comparison anew from its tables; nothing is trained or sampled.

    What is published holds the tables, compressed, from which this command makes everything else again: summary.json,
    report.html, the figures and a README.md. The place of the results of a study NAME in another file is between the
    lines `<!-- results of NAME -->` and `<!-- end of results of NAME -->`.
    """
    # Imported here: pandas and scipy take seconds, which --help need not.
    from medsegdiff.compare.analysis.markdown import put_block, results_block
    from medsegdiff.compare.analysis.publish import publish_study
    from medsegdiff.compare.analysis.report import read_settings, write_report
    from medsegdiff.compare.runs import read_json

    if publish is None:
        # In published folders the cases are compressed; a README.md may lie in a study's, and not be ours.
        written = write_report(folder, published=(folder / "cases.csv.gz").is_file())
    else:
        written = publish_study(folder, publish)
    typer.echo(f"wrote {written}")
    if readme is not None:
        place = publish or folder
        settings = read_settings(place / "study.yaml")
        put_block(readme, str(settings.get("name")), results_block(read_json(place / "summary.json"), settings))
        typer.echo(f"wrote {readme}")
