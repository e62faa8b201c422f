"""`medsegdiff label`: bundles in the viewers of MONAI Label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def label(
    studies: Annotated[
        str,
        typer.Option(
            help="Folder of images (NIfTI, NRRD, PNG, TIFF), or address of a DICOMweb store such as "
            "http://127.0.0.1:8042/dicom-web."
        ),
    ],
    bundles: Annotated[
        list[Path] | None,
        typer.Option(help="A bundle, or a folder of bundles; may be repeated. Default: those of the repository."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for fine-tuned weights and caches; default: .medsegdiff in the folder of images, or "
            "~/.cache/medsegdiff/label for a DICOM store."
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(min=0, max=20, help="Models of each bundle that show a single draw.")] = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, or cuda.")] = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in, who need no password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
) -> None:
    """Serve bundles to OHIF, 3D Slicer and other viewers of MONAI Label. Research use only.

    For each bundle with weights, viewers list its segmentation, a map of where it is unsure, and single draws; cases
    can be served the most uncertain first, and the bundle be fine-tuned on the labels that were corrected. Fine-tuned
    weights go to the work folder; what a bundle ships stays as it is.

    Needs an environment of its own: `make label-env`.
    """
    from medsegdiff.apps.label.environment import require_monailabel
    from medsegdiff.apps.label.server import LabelServer
    from medsegdiff.notice import RESEARCH_ONLY

    server = LabelServer(
        studies, bundles=bundles or (), work=work, device=device, candidates=candidates, host=host, port=port
    )
    typer.echo(RESEARCH_ONLY)
    require_monailabel()
    server.check_port()
    server.prepare()
    if trouble := server.trouble():
        typer.echo(f"warning: {trouble}", err=True)
    typer.echo(f"open {server.address} (stop with Ctrl-C)")
    server.serve()
