"""What sampling a whole volume by windows costs beside its network calls, and the memory of one draw and of several.

`python tests/benchmarks/window_cost.py [--shape 192 128 128] [--window 64] [--classes 16] [--steps 5] [--draws 8]`

A `small` recycling network with fresh weights, whose cost is that of trained ones. On one core some ten minutes, most
of it for the memory of several draws, measured in two steps (`--memory-steps`): all but the last take the same;
`--shape 48 48 48 --window 32` takes seconds.
"""

from __future__ import annotations

import argparse
import logging
import sys

import torch
from alternating import alternate
from peaks import peak_mib, peaks_of_draws

from medsegdiff.inferers.window_averaged import WindowAveragedInferer
from medsegdiff.inferers.windows import WindowGrid
from medsegdiff.methods import RunSpec, build_segmenter
from medsegdiff.networks.segmenter import DiffusionSegmenter

TIME_TARGET, MEMORY_TARGET = 1.10, 1.10
CASE = {"cases": ["case"]}


def make_network(arguments: argparse.Namespace) -> DiffusionSegmenter:
    names = ["background", *(f"organ {n}" for n in range(1, arguments.classes))]
    spec = RunSpec("benchmark", "recycling", "small", 3, 1, names, [arguments.window] * 3, steps=arguments.steps)
    return build_segmenter(spec, amp=arguments.amp).eval().to(arguments.device)


def make_image(arguments: argparse.Namespace) -> torch.Tensor:
    return torch.randn(1, 1, *arguments.shape, generator=torch.Generator().manual_seed(0)).to(arguments.device)


def make_inferer(arguments: argparse.Namespace) -> WindowAveragedInferer:
    return WindowAveragedInferer(
        [arguments.window] * 3, overlap=0.25, mode="gaussian", sw_batch_size=1, memory_budget=arguments.memory_budget
    )


@torch.no_grad()
def compare_time(arguments: argparse.Namespace) -> None:
    """The whole of sampling against as many calls of the network as it makes."""
    network, image, inferer = make_network(arguments), make_image(arguments), make_inferer(arguments)
    windows = len(WindowGrid(image.shape[2:], [arguments.window] * 3, overlap=0.25).windows)
    window = image[..., : arguments.window, : arguments.window, : arguments.window].contiguous()
    x_t, t = torch.randn(1, network.mask_channels, *window.shape[2:]).to(window), torch.tensor([500]).to(image.device)
    took = alternate(
        arguments.rounds,
        call=lambda: [network.denoise(x_t, t, network.encode(window)) for _ in range(arguments.steps)],
        volume=lambda: inferer.sample(image, network, **CASE),
    )
    calls = windows * took["call"]
    ratio = took["volume"] / calls
    print(
        f"{windows} windows x {arguments.steps} steps: {took['volume']:.1f} s, the calls alone {calls:.1f} s, ratio "
        f"{ratio:.3f}: target {TIME_TARGET} {'reached' if ratio <= TIME_TARGET else 'missed'}"
    )


def peak_memory(arguments: argparse.Namespace) -> float:
    """MiB at most while this process samples: of the device, or resident on a CPU."""
    network, image = make_network(arguments), make_image(arguments)
    network.set_sampling(steps=arguments.memory_steps, draws=arguments.memory_of)
    make_inferer(arguments).sample(image, network, **CASE)
    return peak_mib(arguments.device)


def compare_memory(arguments: argparse.Namespace, given: list[str]) -> None:
    """One draw against several."""
    one, many = peaks_of_draws(__file__, given, (1, arguments.draws))
    print(
        f"peak memory, {arguments.classes} classes, budget {arguments.memory_budget}: 1 draw {one:.0f} MiB, "
        f"{arguments.draws} draws {many:.0f} MiB, ratio {many / one:.3f}: target {MEMORY_TARGET} "
        f"{'reached' if many / one <= MEMORY_TARGET else 'missed'}"
    )


def main() -> None:
    """Memory first: a process inherits the peak of the one that starts it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[192, 128, 128])
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--memory-steps", type=int, default=2)
    parser.add_argument("--memory-budget", default="3GB")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--amp", default="off")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("memory", "time"), help="one of the two parts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(peak_memory(arguments))
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.only in (None, "memory"):
        compare_memory(arguments, sys.argv[1:])
    if arguments.only in (None, "time"):
        compare_time(arguments)


if __name__ == "__main__":
    main()
