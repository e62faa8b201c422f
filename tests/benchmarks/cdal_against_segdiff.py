"""How long cDAL and SegDiff sample the same image with equal numbers of draws, and what their networks take of it.

`python tests/benchmarks/cdal_against_segdiff.py [--size paper] [--side 256] [--draws 1] [--rounds 1]`

The steps are those of the papers, 4 and 100. At the paper's size a CPU takes a quarter of an hour; `--size small` takes
a minute, and `--size small --side 64` seconds.
"""

from __future__ import annotations

import argparse

import torch
from alternating import alternate, seconds, timed_network

from medsegdiff.methods import RunSpec, build_segmenter
from medsegdiff.networks.segmenter import DiffusionSegmenter

STEPS = {"cdal": 4, "segdiff": 100}


def make_segmenter(method: str, arguments: argparse.Namespace) -> DiffusionSegmenter:
    """The network of a method for nuclei; its zero layers are filled, since zeros might be multiplied faster."""
    side = (arguments.side, arguments.side)
    spec = RunSpec("monuseg", method, arguments.size, 2, 3, ["background", "nucleus"], side, steps=STEPS[method])
    segmenter = build_segmenter(spec, amp=arguments.amp).eval()
    for parameter in segmenter.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.01)
    segmenter.set_sampling(draws=arguments.draws, draws_per_batch=arguments.draws_per_batch)
    return segmenter.to(arguments.device)


@torch.no_grad()
def main() -> None:
    """Sample with both in turn, then each once more with its network timed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "paper"), default="paper")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--draws-per-batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--amp", default="off")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image = torch.randn(1, 3, arguments.side, arguments.side, generator=torch.Generator().manual_seed(0))
    image = image.to(arguments.device)
    segmenters = {method: make_segmenter(method, arguments) for method in STEPS}

    def sample(method: str) -> None:
        segmenters[method].sample(image, cases=["case"])

    took = alternate(arguments.rounds, cdal=lambda: sample("cdal"), segdiff=lambda: sample("segdiff"))
    for method, segmenter in segmenters.items():
        with timed_network(segmenter.denoiser) as times:
            whole = seconds(lambda method=method: sample(method))
        size = sum(p.numel() for p in segmenter.parameters()) / 1e6
        print(
            f"{method:8s} {size:6.2f} M parameters, {STEPS[method]:3d} steps, {arguments.draws} draws: "
            f"{took[method]:.3f} s, {1 - sum(times) / whole:.1%} of the time outside the network"
        )
    print(f"segdiff / cdal {took['segdiff'] / took['cdal']:.1f} (the papers' times, 60 s and 1 s: 60)")


if __name__ == "__main__":
    main()
