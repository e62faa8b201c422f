"""How long viewers wait for a running `medsegdiff label`: for a segmentation, /info/ meanwhile, and ten at once.

`python tests/benchmarks/label_server.py --image NAME [--model hippocampus] [--address URL] [--rounds 5]`

NAME is that of an image in the server's store. Started in the environment of the server, `make label-env`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

INFER_TARGET, INFO_TARGET = 5.0, 1.0
AT_ONCE = 10


def segment(arguments: argparse.Namespace) -> float:
    """Seconds from request to result."""
    started = time.perf_counter()
    address = f"{arguments.address}/infer/{arguments.model}"
    reply = httpx.post(address, params={"image": arguments.image, "output": "image"}, timeout=600)
    reply.raise_for_status()
    return time.perf_counter() - started


def info_while(running: Future[float], arguments: argparse.Namespace) -> list[float]:
    """Seconds of each answer of /info/ until a segmentation is done."""
    waits = []
    while not running.done():
        started = time.perf_counter()
        httpx.get(f"{arguments.address}/info/", timeout=600).raise_for_status()
        waits.append(time.perf_counter() - started)
        time.sleep(0.05)
    return waits


def all_at_once(arguments: argparse.Namespace) -> float:
    """Seconds until as many requests are all answered."""
    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(segment, [arguments] * AT_ONCE))
    return time.perf_counter() - started


def main() -> None:
    """Warm up, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True)
    parser.add_argument("--model", default="hippocampus")
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"first request {segment(arguments):.2f} s")
    took = [segment(arguments) for _ in range(arguments.rounds)]
    waits = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(arguments.rounds):
            waits += info_while(pool.submit(segment, arguments), arguments)
    for name, seconds, target in (("segmentation", took, INFER_TARGET), ("/info/ meanwhile", waits, INFO_TARGET)):
        verdict = "reached" if max(seconds) <= target else "missed"
        print(
            f"{name}: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f}: target {target} {verdict}"
        )
    print(f"{AT_ONCE} segmentations asked for at once: all answered after {all_at_once(arguments):.2f} s")


if __name__ == "__main__":
    main()
