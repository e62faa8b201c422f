"""The main job on generated phantoms in a few minutes: train, segment, measure, draw a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

TASK = "hippocampus"


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the weights, the segmentations and the picture.")] = Path(
        "demo_output"
    ),
    method: Annotated[str, typer.Option(help="Method to train.")] = "recycling",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training, about 17 s each on two cores.")] = 8,
    draws: Annotated[int, typer.Option(min=1, help="Segmentations that are averaged for each case.")] = 4,
    cases: Annotated[int, typer.Option(min=1, help="Test cases to segment and to draw.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of phantoms, training and sampling.")] = 0,
) -> None:
    """Train on phantoms, segment test phantoms, print Dice and write a picture."""
    run_demo(output, method=method, epochs=epochs, draws=draws, cases=cases, seed=seed)


def run_demo(output: Path, *, method: str, epochs: int, draws: int, cases: int, seed: int) -> float:
    """What `make demo` does; returns the mean foreground Dice of the test cases.

    Raises:
        MedSegDiffError: a method that does not exist, or a folder that cannot be written.
    """
    from medsegdiff.data.bundle_root import find_bundle_root
    from medsegdiff.data.reading import read_image
    from medsegdiff.data.writer import make_folder, write_nifti
    from medsegdiff.inferers.predictor import BundlePredictor
    from medsegdiff.metrics.segmentation import case_metrics
    from medsegdiff.notice import short_notice

    bundle = Path(find_bundle_root(TASK))
    make_folder(output)
    started = time.monotonic()
    weights, tests = _train(bundle, output, method=method, epochs=epochs, seed=seed)
    trained = time.monotonic()

    predictor = BundlePredictor(bundle, weights=weights, seed=seed, draws=draws if method != "supervised" else None)
    panels, scores = [], []
    for item in tests[:cases]:
        prediction = predictor.predict(item["image"])
        image, truth = read_image(Path(item["image"])), read_image(Path(item["label"]))
        spacing = [float(step) for step in (image.affine[:3, :3] ** 2).sum(axis=0) ** 0.5]
        rows = case_metrics(
            prediction.label, truth.array, class_names=predictor.class_names[1:], spacing=spacing, case=item["case"]
        )
        scores.append(sum(row.dice for row in rows) / len(rows))
        print(f"{item['case']}: " + ", ".join(f"{row.class_name} Dice {row.dice:.3f}" for row in rows))
        write_nifti(
            prediction.label,
            output / f"{item['case']}.nii.gz",
            affine=prediction.affine,
            like=item["image"],
            description=short_notice(TASK),
        )
        panels.append((item["case"], image.array, truth.array, prediction.label, prediction.entropy))
    picture = output / "demo.png"
    draw_panels(panels, picture)
    mean = sum(scores) / len(scores)
    print(
        f"mean Dice {mean:.3f} on {len(scores)} test phantoms; {method} trained in {trained - started:.0f} s, "
        f"{draws} draws a case segmented in {(time.monotonic() - trained) / len(scores):.1f} s a case"
    )
    print(f"wrote {picture}")
    return mean


def draw_panels(panels: list[tuple[str, Any, Any, Any, Any]], path: Path) -> None:
    """Draw, for each case, image, truth, prediction and uncertainty in the slice with the most foreground.

    Args:
        panels: name, image, truth, prediction and entropy of each case, all (X, Y, Z).
        path: of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from medsegdiff.data.writer import written_whole

    columns = ("image", "truth", "prediction", "uncertainty (entropy)")
    figure = Figure(figsize=(2.6 * len(columns), 2.9 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), len(columns), squeeze=False)
    for row, (name, image, truth, prediction, entropy) in zip(axes, panels, strict=True):
        z = int((truth > 0).sum(axis=(0, 1)).argmax())
        views: tuple[tuple[Any, dict[str, Any]], ...] = (
            (image[..., z], {"cmap": "gray"}),
            (truth[..., z], {"cmap": "viridis", "vmin": 0, "interpolation": "nearest"}),
            (prediction[..., z], {"cmap": "viridis", "vmin": 0, "vmax": truth.max(), "interpolation": "nearest"}),
            (entropy[..., z], {"cmap": "magma", "vmin": 0, "vmax": 1}),
        )
        for axis, title, (view, style) in zip(row, columns, views, strict=True):
            axis.imshow(view.T, origin="lower", **style)
            axis.set_title(title, fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"{name}, slice {z}", fontsize=8)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _train(bundle: Path, output: Path, *, method: str, epochs: int, seed: int) -> tuple[Path, list[dict[str, Any]]]:
    """Train the bundle without data, as `python -m monai.bundle run training` does; weights and test cases."""
    from monai.bundle import ConfigWorkflow

    from medsegdiff.methods import get_method

    get_method(method)
    configs = bundle / "configs"
    workflow = ConfigWorkflow(
        config_file=str(configs / "train.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type="train",
        bundle_root=str(bundle),
        ckpt_dir=str(output / "ckpt"),
        method=method,
        epochs=epochs,
        seed=seed,
        val_interval=epochs,
    )
    workflow.initialize()
    workflow.run()
    parser = workflow.parser
    return Path(parser.get_parsed_content("run_dir")) / "model.pt", parser.get_parsed_content("datalists")["test"]
