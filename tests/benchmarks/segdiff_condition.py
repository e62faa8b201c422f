"""What encoding the image once saves SegDiff's sampling, and what its draws cost in time and memory.

`python tests/benchmarks/segdiff_condition.py [--side 256] [--rrdbs 12] [--steps 40] [--device cpu]`

At the paper's size a CPU takes the better part of an hour, and `--rounds 1 --draws 4` less;
`--side 32 --channels 8 16 --rrdbs 1 --draws 4` takes seconds.
"""

from __future__ import annotations

import argparse
import sys

import torch
from alternating import alternate
from peaks import peak_mib, peaks_of_draws

from medsegdiff.methods import RunSpec, build_segmenter
from medsegdiff.networks.nets.denoiser import Denoiser
from medsegdiff.networks.segmenter import DiffusionSegmenter

TARGET = 0.9


class Recomputing(Denoiser):
    """A denoiser that encodes the image again at every step and for every draw, as SegDiff's release does."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner, self.spatial_dims, self.image_channels = inner, inner.spatial_dims, inner.image_channels

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def forward(self, x_t, t, condition, x0_prev=None, z=None):
        return self.inner(x_t, t, self.inner.encode(condition), x0_prev, z)


def make_segmenter(arguments: argparse.Namespace) -> DiffusionSegmenter:
    """SegDiff at the size asked for; its zero layers are filled, since zeros might be multiplied faster."""
    side = (arguments.side, arguments.side)
    options = {"num_rrdbs": arguments.rrdbs}
    if arguments.channels:
        options["channels"] = arguments.channels
    spec = RunSpec("monuseg", "segdiff", "paper", 2, 3, ["background", "nucleus"], side, options=options)
    segmenter = build_segmenter(spec, amp=arguments.amp).eval()
    for parameter in segmenter.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    segmenter.set_sampling(steps=arguments.steps)
    return segmenter.to(arguments.device)


def make_image(arguments: argparse.Namespace) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, arguments.side, arguments.side, generator=generator).to(arguments.device)


@torch.no_grad()
def compare_condition(arguments: argparse.Namespace) -> None:
    """One draw of all steps with the condition kept and with it encoded again at each step."""
    kept, image = make_segmenter(arguments), make_image(arguments)
    again = make_segmenter(arguments)
    again.load_state_dict(kept.state_dict())
    again.denoiser = Recomputing(again.denoiser)
    condition = kept.encode(image)
    x_t, t = torch.randn(1, kept.mask_channels, *image.shape[2:], device=image.device), torch.tensor([50])
    took = alternate(
        arguments.rounds,
        G=lambda: kept.encode(image),
        U=lambda: kept.denoise(x_t, t.to(image.device), condition),
        kept=lambda: kept.sample(image, cases=["case"]),
        again=lambda: again.sample(image, cases=["case"]),
    )
    difference = (kept(image) - again(image)).abs().max().item()
    measured, limit = took["again"] / took["kept"], (took["G"] + took["U"]) / took["U"]
    reachable = arguments.steps * took["U"] / (took["G"] + arguments.steps * took["U"])
    print(f"t_G {took['G']:.4f} s, t_U {took['U']:.4f} s; {arguments.steps} steps can reach a share of {reachable:.3f}")
    print(f"kept {took['kept']:.3f} s, encoded again {took['again']:.3f} s, largest difference {difference:.1e}")
    share = measured / limit
    verdict = "reached" if share >= TARGET else "missed"
    print(f"ratio {measured:.3f}, (t_G + t_U) / t_U {limit:.3f}, share {share:.3f}: target {TARGET} {verdict}")


def compare_draws(arguments: argparse.Namespace) -> None:
    """All draws in one batch against one after the other, under one condition."""
    segmenter, image = make_segmenter(arguments), make_image(arguments)

    def sample(per_batch: int) -> torch.Tensor:
        segmenter.set_sampling(draws=arguments.draws, draws_per_batch=per_batch)
        return segmenter.sample(image, cases=["case"]).probabilities

    took = alternate(arguments.rounds, batch=lambda: sample(arguments.draws), loop=lambda: sample(1))
    difference = (sample(arguments.draws) - sample(1)).abs().max().item()
    print(
        f"{arguments.draws} draws: batch {took['batch']:.3f} s, loop {took['loop']:.3f} s, "
        f"loop / batch {took['loop'] / took['batch']:.3f}, largest difference {difference:.1e}"
    )


def peak_memory(arguments: argparse.Namespace, draws: int) -> float:
    """MiB at most while this process samples so many draws: of the device, or resident on a CPU."""
    segmenter, image = make_segmenter(arguments), make_image(arguments)
    segmenter.set_sampling(draws=draws, draws_per_batch=arguments.draws_per_batch)
    segmenter.sample(image, cases=["case"])
    return peak_mib(arguments.device)


def compare_memory(arguments: argparse.Namespace, given: list[str]) -> None:
    """One draw against several, in two steps: every step takes the same."""
    one, many = peaks_of_draws(__file__, [*given, "--steps", "2"], (1, arguments.draws))
    print(
        f"peak memory with {arguments.draws_per_batch} draws a batch: 1 draw {one:.0f} MiB, "
        f"{arguments.draws} draws {many:.0f} MiB, ratio {many / one:.3f}"
    )


def main() -> None:
    """Memory first: a process inherits the peak of the one that starts it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rrdbs", type=int, default=12)
    parser.add_argument("--channels", type=int, nargs="+", help="features of each level in place of the paper's")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--draws-per-batch", type=int, default=1, help="of the memory's part")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--amp", default="off")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("memory", "condition", "draws"), help="one of the three parts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(peak_memory(arguments, arguments.memory_of))
        return
    if arguments.only in (None, "memory"):
        compare_memory(arguments, sys.argv[1:])
    if arguments.only in (None, "condition"):
        compare_condition(arguments)
    if arguments.only in (None, "draws"):
        compare_draws(arguments)


if __name__ == "__main__":
    main()
