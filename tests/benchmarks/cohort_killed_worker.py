"""A cohort on Ray that loses a worker in the middle, and what a second worker is worth.

`python tests/benchmarks/cohort_killed_worker.py [--cases 40] [--images FOLDER] [--bundle FOLDER] [-- OPTION...]`

What comes after `--` goes to the command, such as `--method supervised` or `--steps 2`, which take less time.

Three runs of `medsegdiff predict --engine ray` over the same images, each worker with one thread: one worker; two; two
of which one is killed (SIGKILL) once a quarter of the cases is done. Every file must be the same in all three. Times
are from the first case that starts to the last that ends, so that loading the network is not among them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from medsegdiff.cohort.engine import DONE, STARTED
from medsegdiff.cohort.manifest import Manifest
from medsegdiff.data.inputs import find_images

REPOSITORY = Path(__file__).resolve().parents[2]


def predict(arguments: argparse.Namespace, images: list[Path], output: Path, *, workers: int, kill: bool) -> dict:
    """Run the command, kill a worker where asked for, and return the report with the seconds that cases took."""
    command = [sys.executable, "-m", "medsegdiff.cli.main", "predict", *images, "--bundle", arguments.bundle]
    options = ["--output", output, "--engine", "ray", "--workers", workers, "--device", "cpu"]
    options += arguments.options
    # The threads of a process are shared out among the workers.
    environment = {**os.environ, "OMP_NUM_THREADS": str(workers)}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen([str(word) for word in command + options], env=environment)
    while kill and process.poll() is None:
        records = Manifest(output).read().values()
        busy = [record["worker"] for record in records if record["status"] == STARTED]
        if busy and sum(record["status"] == DONE for record in records) >= len(images) // 4:
            os.kill(int(busy[0].split(":")[1]), signal.SIGKILL)
            kill = False
        time.sleep(0.02)
    code = process.wait()
    report = json.loads((output / "report.json").read_text())
    lines = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    times = [datetime.fromisoformat(line["time"]) for line in lines]
    return report | {"exit_code": code, "seconds_at_cases": (times[-1] - times[0]).total_seconds()}


def main() -> int:
    """Print what became of the cases of each run, and how many times as fast two workers are as one."""
    data = Path(os.environ.get("MEDSEGDIFF_DATA") or REPOSITORY.parent / "shared" / "data")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--images", type=Path, default=data / "hippocampus" / "imagesTr")
    parser.add_argument("--bundle", type=Path, default=REPOSITORY / "bundles" / "hippocampus")
    parser.add_argument("options", nargs="*", help="of the command")
    arguments = parser.parse_args()
    images = find_images(arguments.images)[: arguments.cases]
    seconds, contents, good = {}, {}, len(images) == arguments.cases
    with tempfile.TemporaryDirectory() as folder:
        for name, workers, kill in (("one", 1, False), ("two", 2, False), ("two, one killed", 2, True)):
            output = Path(folder) / name
            report = predict(arguments, images, output, workers=workers, kill=kill)
            seconds[name] = report["seconds_at_cases"]
            contents[name] = {path.name: path.read_bytes() for path in output.glob("*.nii.gz")}
            counts = f"{report['done']:4d} done {report['retries']:3d} retried {report['failed']:3d} failed"
            print(f"workers: {name:16s} {counts} {seconds[name]:9.1f} s", flush=True)
            left = [path.name for path in output.iterdir() if path.name.startswith(".")]
            good &= report["exit_code"] == 0 and report["done"] == len(images) and not left
            good &= report["retries"] == int(kill) and contents[name] == contents["one"]
    print(f"two workers are {seconds['one'] / seconds['two']:.2f} times as fast as one")
    print(
        "every case is done once, and every file is the same in all runs" if good else "SOMETHING IS WRONG, see above"
    )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
