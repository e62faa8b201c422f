"""What blending windows at every step costs against sampling each to its end, and what becomes of their seams.

`python tests/benchmarks/window_averaging.py [--weights FILE] [--images FILE ...] [--overlap 0.25] [--rounds 3]`

Without options: the weights of the hippocampus bundle and a generated image of the size that they
were trained on, in eight windows; about two minutes on two cores.
All numbers are ratios within one run. A file given as image is taken on its own grid, normalised to mean 0 and standard
deviation 1. Times are those of the first image; seams are means over all: in one image, what happens to lie at the
borders of windows, such as the edge of a structure, counts as a seam, too, as sampling it whole shows.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from alternating import alternate, seconds, timed_network
from torch.nn import functional as F

from medsegdiff.data.phantoms import PhantomSpec, make_phantom
from medsegdiff.inferers import window_averaged
from medsegdiff.inferers.loading import load_network
from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.inferers.windows import WindowGrid
from medsegdiff.methods import RunSpec, build_segmenter, spec_path
from medsegdiff.networks.segmenter import DiffusionSegmenter, Segmentation

WEIGHTS = Path(__file__).parents[2] / "bundles" / "hippocampus" / "models" / "model.pt"
TIME_TARGET, SEAM_TARGET = 1.05, 0.5
CASE = {"cases": ["case"]}


def make_images(arguments: argparse.Namespace, size: Sequence[int]) -> list[torch.Tensor]:
    """The files, or a phantom of this size."""
    if arguments.images:
        found = [np.asarray(nib.load(file).get_fdata(dtype=np.float32)) for file in arguments.images]
    else:
        spec = PhantomSpec(shape=tuple(size), spacing=(1.0,) * len(size), num_classes=3)
        found = [make_phantom(spec, 1)[0][0]]
    images = [torch.from_numpy(voxels) for voxels in found]
    return [((image - image.mean()) / image.std())[None, None].to(arguments.device) for image in images]


def make_inferer(arguments: argparse.Namespace, roi_size: list[int], **options: Any) -> WindowAveragedInferer:
    settings = {"overlap": arguments.overlap, "mode": arguments.mode, "sw_batch_size": arguments.sw_batch_size}
    return WindowAveragedInferer(roi_size, **{**settings, **options})


def seam_ratio(result: Segmentation, grid: WindowGrid) -> float:
    """Mean jump of the probabilities across window borders, over their mean jump between other neighbours."""
    probabilities = grid.pad(result.probabilities)[0]  # (K, *S)
    borders, others = [], []
    for axis, size in enumerate(grid.size):
        planes = {edge for window in grid.windows for edge in (window[axis].start, window[axis].stop)} - {0, size}
        if not planes:
            continue
        jumps = probabilities.diff(dim=axis + 1).abs().movedim(axis + 1, 0).flatten(1).mean(dim=1)  # (n - 1,)
        at_border = torch.tensor([place + 1 in planes for place in range(size - 1)])
        borders.append(jumps.cpu()[at_border])
        others.append(jumps.cpu()[~at_border])
    return float(torch.cat(borders).mean() / torch.cat(others).mean())


def compare_averages(
    arguments: argparse.Namespace, network: DiffusionSegmenter, images: list[torch.Tensor], roi_size: list[int]
) -> None:
    """Time and seams of windows blended at every step, and of the papers' way: each to its end, all weighing alike."""
    ours, papers = ("steps", arguments.mode), ("probabilities", "constant")
    image = images[0]
    windows = len(WindowGrid(image.shape[2:], roi_size, overlap=arguments.overlap).windows)
    print(f"{windows} windows of {roi_size} in an image of {list(image.shape[2:])}, {network.steps} steps")

    def run(average: str, mode: str, image: torch.Tensor = image) -> Segmentation:
        return make_inferer(arguments, roi_size, average=average, mode=mode).sample(image, network, **CASE)

    took = alternate(arguments.rounds, ours=functools.partial(run, *ours), papers=functools.partial(run, *papers))
    ratio = took["ours"] / took["papers"]
    print(
        f"time: steps {took['ours']:.2f} s, probabilities {took['papers']:.2f} s, ratio {ratio:.3f}: "
        f"target {TIME_TARGET} {verdict(ratio <= TIME_TARGET)}"
    )
    for way in (ours, papers):  # steadier than the ratio, where the machine is not
        with timed_network(network.denoiser) as times:
            whole = seconds(functools.partial(run, *way))
        print(f"{way[0]}: {whole / sum(times) - 1:.1%} on top of the {len(times)} calls of the network")
    seams: dict[tuple[str, ...], list[float]] = {}
    for image in images:
        grid = WindowGrid(image.shape[2:], roi_size, overlap=arguments.overlap)
        results = {way: run(*way, image) for way in (ours, papers, ("steps", "constant"), (papers[0], arguments.mode))}
        for way, result in {**results, ("whole",): network.sample(image, **CASE)}.items():
            seams.setdefault(way, []).append(seam_ratio(result, grid))
    means = {way: sum(found) / len(found) for way, found in seams.items()}
    for way, seam in sorted(means.items()):
        print(f"seam ratio, {', '.join(way)}: {seam:.3f}, mean of {len(images)}")
    share = means[ours] / means[papers]
    above = (means[ours] - means["whole",]) / (means[papers] - means["whole",])
    print(
        f"steps, {arguments.mode}, against probabilities, constant: ratio {share:.3f}: target {SEAM_TARGET} "
        f"{verdict(share <= SEAM_TARGET)}; of what is above the image sampled whole, without any seam: {above:.3f}"
    )


def compare_seams_of_a_follower(arguments: argparse.Namespace) -> None:
    """Seams of a made-up network that decides by its whole window at first and goes by its noisy mask later."""
    roi_size, image = [12, 12], torch.zeros(1, 1, 48, 12)
    spec = RunSpec("phantom", "diffusion", "small", 2, 1, ["background", "body"], roi_size, sampler="ddim", steps=10)
    network = build_segmenter(spec).eval()

    def forward(x_t: torch.Tensor, t: torch.Tensor, *_: Any) -> torch.Tensor:
        share = (t / 1000).view(-1, 1, 1, 1)
        decision = x_t.mean(dim=(2, 3), keepdim=True)
        return share * 40 * decision + (1 - share) * 6 * F.avg_pool2d(x_t, 3, stride=1, padding=1)

    network.denoiser.forward = forward
    grid, seams = WindowGrid((48, 12), roi_size, overlap=arguments.overlap), {}
    for average in ("steps", "probabilities"):
        result = make_inferer(arguments, roi_size, average=average).sample(image, network, **CASE)
        seams[average] = seam_ratio(result, grid)
    share = seams["steps"] / seams["probabilities"]
    print(
        f"seam ratio of a network that goes by its noisy mask: steps {seams['steps']:.3f}, probabilities "
        f"{seams['probabilities']:.3f}, ratio {share:.3f}: target {SEAM_TARGET} {verdict(share <= SEAM_TARGET)}"
    )


def compare_conditions(arguments: argparse.Namespace) -> None:
    """Conditions kept from step to step against made again, with a SegDiff and its image encoder."""
    roi_size = [16, 16, 16]
    names = ["background", "body"]
    spec = RunSpec("phantom", "segdiff", "small", 3, 1, names, roi_size, steps=arguments.steps or 5)
    network = build_segmenter(spec).eval().to(arguments.device)
    image = torch.randn(1, 1, 24, 24, 24).to(arguments.device)
    inferer = make_inferer(arguments, roi_size)

    def run(conditions: str) -> torch.Tensor:
        with conditions_are(conditions):
            return inferer.sample(image, network, **CASE).probabilities

    took = alternate(arguments.rounds, kept=lambda: run("kept"), again=lambda: run("again"))
    difference = (run("kept") - run("again")).abs().max().item()
    print(
        f"conditions: kept {took['kept']:.2f} s, made again {took['again']:.2f} s, ratio "
        f"{took['kept'] / took['again']:.3f}, largest difference {difference:.1e}"
    )


def compare_batches(
    arguments: argparse.Namespace, network: DiffusionSegmenter, image: torch.Tensor, roi_size: list[int]
) -> None:
    """Several windows in a batch against one at a time."""
    sizes = (1, 2, 4)
    took = alternate(
        arguments.rounds,
        **{
            str(size): lambda size=size: make_inferer(arguments, roi_size, sw_batch_size=size).sample(
                image, network, **CASE
            )
            for size in sizes
        },
    )
    ratios = ", ".join(f"{size} windows {took[str(size)] / took['1']:.3f}" for size in sizes)
    print(f"batches, time against one window at a time: {ratios}")


@contextmanager
def conditions_are(kind: str) -> Iterator[None]:
    """Plan as ever, but for what becomes of conditions."""
    plan = window_averaged.plan_windows

    def planned(*args: Any, **options: Any) -> Any:
        return replace(plan(*args, **options), conditions=kind)

    with mock.patch.object(window_averaged, "plan_windows", planned):
        yield


def verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def main() -> None:
    """Run the three comparisons, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=WEIGHTS, type=Path)
    parser.add_argument("--images", nargs="+", help="NIfTI files of one channel")
    parser.add_argument("--roi-size", type=int, nargs="+", help="in place of three fifths of that of the weights")
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--mode", default="gaussian", help="of blending at every step, that of the bundles by default")
    parser.add_argument("--sw-batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, help="in place of those of the weights")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--amp", default="off")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("averages", "conditions", "batches"), help="one of the three comparisons")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    network = load_network(
        arguments.weights, steps=arguments.steps, draws=arguments.draws, amp=arguments.amp, device=arguments.device
    )
    trained = RunSpec.read(spec_path(arguments.weights)).roi_size
    roi_size = arguments.roi_size or [max(8, 8 * (side * 3 // 5 // 8)) for side in trained]
    images = make_images(arguments, trained)
    if arguments.only in (None, "averages"):
        compare_averages(arguments, network, images, roi_size)
        compare_seams_of_a_follower(arguments)
    if arguments.only in (None, "conditions"):
        compare_conditions(arguments)
    if arguments.only in (None, "batches"):
        compare_batches(arguments, network, images[0], roi_size)


if __name__ == "__main__":
    main()
