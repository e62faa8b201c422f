"""Training on two processes against one, on the cores of this machine: the same losses, and how much faster.

`python tests/benchmarks/two_processes.py [--bundle hippocampus] [--epochs 2] [--dataset-dir FOLDER] [-- OPTION...]`

Both see the same samples with the same noise: one process with batches of `--batch-size`, two over gloo with half of it
each. Every process has one thread. What comes after `--` goes to both commands, such as `--method supervised`.
Seconds are those from the first optimiser step to the last, so that loading and preparing data is not among them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-3


def train(arguments: argparse.Namespace, processes: int, folder: Path) -> tuple[list[float], float]:
    """The loss of every optimiser step, and the seconds that a step took."""
    bundle = REPOSITORY / "bundles" / arguments.bundle
    files = [bundle / "train.json"] + [bundle / "configs" / "multi_gpu_train.json"] * (processes > 1)
    start = ["torch.distributed.run", "--standalone", "--nproc_per_node", processes, "-m"] if processes > 1 else []
    command = [sys.executable, "-m", *start, "monai.bundle", "run", "training"]
    command += ["--config_file", [str(file) for file in files], "--ckpt_dir", folder, "--device", "cpu"]
    command += ["--batch_size", arguments.batch_size // processes, "--epochs", arguments.epochs]
    command += ["--dataset_dir", Path(arguments.dataset_dir).resolve()] if arguments.dataset_dir else []
    done = subprocess.run(
        [str(word) for word in [*command, *arguments.options]],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"training on {processes} failed:\n{done.stdout[-3000:]}")
    for events in folder.rglob("events.out*"):
        log = EventAccumulator(str(events)).Reload()
        if "train_loss" in log.Tags()["scalars"]:
            steps = log.Scalars("train_loss")
            return [step.value for step in steps], (steps[-1].wall_time - steps[0].wall_time) / (len(steps) - 1)
    sys.exit(f"training on {processes} logged no loss in {folder}")


def main() -> None:
    """One process, then two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="hippocampus")
    parser.add_argument("--dataset-dir", help="in place of phantoms")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2, help="in all")
    parser.add_argument("options", nargs="*", help="of the command")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            found[processes] = train(arguments, processes, Path(folder, str(processes)))
            losses, seconds = found[processes]
            print(f"{processes} processes: {len(losses)} steps of {seconds:.3f} s, last loss {losses[-1]:.5f}")
    (one, alone), (two, together) = found[1], found[2]
    apart = max(abs(a - b) / abs(a) for a, b in zip(one, two, strict=True))
    print(
        f"largest relative difference of a loss {apart:.1e}: target {TOLERANCE} "
        f"{'reached' if apart <= TOLERANCE else 'missed'}; two processes are {alone / together:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
