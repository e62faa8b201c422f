"""How much a training step of each strategy costs against standard diffusion's, as ratios within one run.

`python tests/benchmarks/recycling_step.py [--rounds 8] [--threads N] [--amp auto]`
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from medsegdiff.data.noise import TrainingNoise
from medsegdiff.engines.strategies import get_strategy
from medsegdiff.losses.segmentation import SegmentationLoss
from medsegdiff.methods import METHODS, RunSpec, build_segmenter

ROI = (48, 64, 48)
FAMILY = ("supervised", "diffusion", "recycling", "recycling_next", "self_conditioning", "self_conditioning_next")
BATCH = 2


def make_step(method: str, amp: str):
    """One training step of a method on random data of the hippocampus bundle's size."""
    spec = RunSpec("hippocampus", method, "small", 3, 1, ["background", "anterior", "posterior"], ROI)
    segmenter = build_segmenter(spec, amp=amp).train()
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-4)
    image, label = torch.randn(BATCH, 1, *ROI), torch.randint(0, 3, (BATCH, 1, *ROI))
    x_0, t, loss = segmenter.codec.encode(label), torch.tensor([10, 600]), SegmentationLoss()
    strategy = get_strategy(METHODS[method].strategy)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        made = strategy(segmenter, image, x_0, t, TrainingNoise(0, 0, ["a", "b"]))
        loss(made.output, label).mean().backward()
        optimizer.step()
        return time.perf_counter() - started

    return step


def main() -> None:
    """Time all methods in turn, round by round, so that a drift of the machine touches all alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--amp", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = {method: make_step(method, arguments.amp) for method in FAMILY}
    for step in steps.values():
        step()
    seconds = {method: [] for method in steps}
    for _ in range(arguments.rounds):
        for method, step in steps.items():
            seconds[method].append(step())
    standard = seconds["diffusion"]
    print(f"{'method':24s} {'seconds':>8s} {'ratio to diffusion (median of rounds)':>38s}")
    for method, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, standard, strict=True))
        print(f"{method:24s} {statistics.median(times):8.3f} {ratio:38.2f}")


if __name__ == "__main__":
    main()
