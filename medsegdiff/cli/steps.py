"""What each sampling step contributes, on labelled cases of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medsegdiff.compare.step_study import StepStudy
    from medsegdiff.inferers.slicewise import Segmenter


def steps(
    weights: Annotated[Path, typer.Option(help="Weights of a diffusion method, with their model.json beside them.")],
    output: Annotated[Path, typer.Option(help="JSON file to write.")],
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    dataset_dir: Annotated[Path | None, typer.Option(help="Folder with images and labels; phantoms without.")] = None,
    part: Annotated[str, typer.Option(help="Part of the split: training, validation or test.")] = "test",
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim or dpm_solver++.")] = None,
    num_steps: Annotated[int | None, typer.Option("--steps", min=1, help="Number of visited time steps.")] = None,
    draws: Annotated[int | None, typer.Option(min=1, help="Draws a case, averaged.")] = None,
    probe_t: Annotated[
        int | None,
        typer.Option(help="Time at which x_t from the truth and pure noise are compared; default: a quarter of T."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    amp: Annotated[str, typer.Option(help="auto, bf16, fp16 or off.")] = "auto",
) -> None:
    """Print and write the mean Dice at every sampling step, and from truth and noise at one time step."""
    from tqdm import tqdm

    from medsegdiff.compare.step_study import study_steps
    from medsegdiff.data.splits import write_json
    from medsegdiff.inferers.loading import load_network, resolve_device

    network = load_network(weights, sampler=sampler, steps=num_steps, draws=draws, seed=seed, amp=amp, device=device)
    items = _cases(bundle, dataset_dir, part, seed)
    _check_axes(network, items)
    studies = study_steps(network, tqdm(items, unit="case"), probe_t=probe_t, device=resolve_device(device))  # type: ignore[arg-type]
    summary = _summarise(studies)
    summary["settings"] = {
        "weights": str(weights),
        "part": part,
        "sampler": network.sampler,
        "steps": network.steps,
        "draws": network.draws,
        "probe_t": studies[0].probe_t,
        "seed": seed,
    }
    write_json(output, {**summary, "cases": [vars(study) for study in studies]})
    typer.echo(json.dumps({key: summary[key] for key in ("per_step", "from_truth", "from_noise")}))
    typer.echo(f"wrote {output}")


def _cases(bundle: Path, dataset_dir: Path | None, part: str, seed: int) -> list[dict[str, Any]]:
    """The preprocessed cases, as the bundle's training validates them."""
    from medsegdiff.data.bundle_config import TRAIN_CONFIG, read_bundle_config
    from medsegdiff.data.task_data import PARTS
    from medsegdiff.errors import SpecError, plain_user_errors

    if part not in PARTS:
        msg = f"part {part!r} does not exist; use one of {', '.join(PARTS)}"
        raise SpecError(msg)
    parser = read_bundle_config(bundle, TRAIN_CONFIG)
    parser["bundle_root"] = str(bundle)
    parser["dataset_dir"] = None if dataset_dir is None else str(dataset_dir)
    parser["seed"] = seed
    with plain_user_errors():
        preprocess = parser.get_parsed_content("validate#preprocessing")
        return [preprocess(item) for item in parser.get_parsed_content("datalists")[part]]


def _check_axes(network: Segmenter, items: Sequence[Mapping[str, Any]]) -> None:
    from medsegdiff.errors import SpecError
    from medsegdiff.inferers.slicewise import spatial_dims

    axes = {item["image"].ndim - 1 for item in items} - {spatial_dims(network)}
    if axes:
        msg = (
            f"the network has {spatial_dims(network)} spatial axes and the bundle's images {axes.pop()}; steps are "
            "studied on what the network sees at once: give weights of as many axes"
        )
        raise SpecError(msg)


def _summarise(studies: list[StepStudy]) -> dict[str, Any]:
    count = len(studies)
    return {
        "n_cases": count,
        "per_step": [sum(scores) / count for scores in zip(*(study.per_step for study in studies), strict=True)],
        "from_truth": sum(study.from_truth for study in studies) / count,
        "from_noise": sum(study.from_noise for study in studies) / count,
    }
