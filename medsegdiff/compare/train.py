"""Training of one run, by the bundle's own command in a process of its own.

Of its own, because a method that fails, or is killed for want of memory, must not take the others with it; because
global random state, cudnn's settings and memory of one training are then no matter of the next; and because what made
the weights is then the documented command, which anyone can give again: `arguments.json` in the run's folder is all it
needs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from medsegdiff.compare.digests import digest_of
from medsegdiff.compare.machine import describe_machine
from medsegdiff.compare.runs import DONE, FAILED, Run, Training, read_json
from medsegdiff.compare.timing import measure_step_seconds
from medsegdiff.data.bundle_config import TRAIN_CONFIG
from medsegdiff.data.splits import write_json
from medsegdiff.errors import SpecError, one_line
from medsegdiff.inferers.loading import resolve_device

Watch = Callable[[int, int], None]
"""Sees how many epochs of how many are done."""

_SECONDS_BETWEEN_LOOKS = 1.0
_EPOCH = re.compile(r"Trainer - INFO - Epoch\[(\d+)\] Complete")
_NOT_MADE = "RuntimeError: Failed to instantiate"
_ERROR = re.compile(r"^(error:|[\w.]*(Error|Exception|Interrupt|Exit)\b:?)")


def train_run(run: Run, *, device: str = "auto", watch: Watch | None = None) -> bool:
    """Train a run to its end, going on from its checkpoint where there is one; a finished one is left alone.

    What has become of it stands in the run's folder afterwards: `done.json` or `failed.json`.

    Args:
        run: no ensemble.
        device: that it is trained on, for the record.
        watch: sees the progress.

    Returns:
        Whether it is done.

    Raises:
        SpecError: the folder is of another run, or another process trains in it.
    """
    if run.training is None or run.state == DONE:
        return True
    run.check_folder()
    run.prepare_folder()
    arguments = _arguments(run, run.training)
    code = _run_training(run, run.training.bundle, arguments, watch)
    reason = None if code == 0 else _reason(run.log, code)
    missing = [path.name for path in run.weights.values() if not path.is_file()]
    if reason is None and missing:
        reason = f"training wrote no {', '.join(missing)}: no validation gave a score"
    if reason is not None:
        run.write_record(FAILED, {"reason": reason})
        return False
    steps = _optimiser_steps(run, run.training)
    digests = {sampler: digest_of(path) for sampler, path in run.weights.items()}
    record = {
        "optimiser_steps": steps,
        "epochs": arguments["epochs"],
        "train_minutes": round(sum(_attempts(run)) / 60, 3),
        "parameters": run.training.parameters,
        "machine": describe_machine(resolve_device(device)),
        "weights": digests.pop(""),
        **({"weights_of": digests} if digests else {}),
    }
    run.write_record(DONE, record)
    return True


def training_command(bundle: Path, arguments: Path) -> list[str]:
    """The bundle's documented command, with what it is given in a file."""
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    return [*command, "--config_file", str(bundle / TRAIN_CONFIG), "--args_file", str(arguments)]


def _arguments(run: Run, training: Training) -> dict[str, Any]:
    """All arguments of the command; those of an earlier attempt, whose learning rate ends where they say."""
    path = run.folder / "arguments.json"
    earlier = read_json(path)
    epochs = earlier.get("epochs")
    if epochs is None:
        steps: float
        if training.budget.steps is not None:
            steps = training.budget.steps
        else:
            seconds = measure_step_seconds(training)
            steps = 60 * (training.budget.minutes or 0) / seconds
        epochs = training.epochs(steps)
    configs = training.bundle / TRAIN_CONFIG.parent
    files = {"meta_file": str(configs / "metadata.json"), "logging_file": str(configs / "logging.conf")}
    arguments = {**files, **training.arguments, "epochs": epochs}
    write_json(path, arguments)
    return arguments


def _run_training(run: Run, bundle: Path, arguments: Mapping[str, Any], watch: Watch | None) -> int:
    """Run the command and return its exit code."""
    command = training_command(bundle, run.folder / "arguments.json")
    # Bars would fill the log; and a process for each of several workers must share the cores as its worker does.
    environment = {**os.environ, "TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    _start_attempt(run)
    with run.log.open("a", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            _note_process(run, child.pid)
            while (code := _wait(child)) is None:
                _look(run.log, int(arguments["epochs"]), watch)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    _end_attempt(run)
    return code


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    try:
        return child.wait(timeout=_SECONDS_BETWEEN_LOOKS)
    except subprocess.TimeoutExpired:
        return None


def _look(log: Path, epochs: int, watch: Watch | None) -> None:
    if watch is not None:
        found = _EPOCH.findall(_tail(log))
        watch(min(int(found[-1]), epochs) if found else 0, epochs)


def _tail(log: Path, most: int = 1 << 14) -> str:
    """The end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        return file.read().decode(errors="replace")


def _reason(log: Path, code: int) -> str:
    """Why training ended, in one line."""
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1] if lines else "no word in its log")
    if said.startswith(_NOT_MADE):  # MONAI's; what it could not be made for stands in the error before
        cause = next((line for line in reversed(lines) if _ERROR.match(line) and not line.startswith(_NOT_MADE)), "")
        said = f"{said}: {cause}".rstrip(": ")
    if code < 0:
        return f"killed by signal {-code}, mostly for want of memory; the last line of its log: {said}"
    return one_line(Exception(said.removeprefix("error: ")))


def _optimiser_steps(run: Run, training: Training) -> int:
    """How many were taken: fewer than planned where an early stop ended training."""
    checkpoint = torch.load(run.folder / "training" / "checkpoint.pt", map_location="cpu", weights_only=True, mmap=True)
    return int(checkpoint["epoch"]) * training.steps_per_epoch


def _start_attempt(run: Run) -> None:
    """Note that training starts.

    Raises:
        SpecError: a process that an interrupted study left behind is at it still.
    """
    import psutil

    note = read_json(run.folder / "process.json")
    if note and psutil.pid_exists(int(note["pid"])):
        process = psutil.Process(int(note["pid"]))
        if abs(process.create_time() - float(note["created"])) < 1:
            msg = f"{run.folder} is being trained by process {note['pid']}; wait for it, or end it, and come again"
            raise SpecError(msg)
    # What an attempt that was killed had saved, it had worked for until then.
    seconds, checkpoint = _attempts(run), run.folder / "training" / "checkpoint.pt"
    if note and checkpoint.is_file():
        seconds.append(max(0.0, checkpoint.stat().st_mtime - float(note["created"])))
    write_json(run.folder / "attempts.json", {"seconds": seconds})


def _note_process(run: Run, pid: int) -> None:
    import psutil

    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        created = time.time()
    write_json(run.folder / "process.json", {"pid": pid, "created": created})


def _end_attempt(run: Run) -> None:
    path = run.folder / "process.json"
    seconds = time.time() - float(json.loads(path.read_text(encoding="utf-8"))["created"])
    path.unlink()
    write_json(run.folder / "attempts.json", {"seconds": [*_attempts(run), seconds]})


def _attempts(run: Run) -> list[float]:
    """The seconds that each attempt has worked."""
    return list(read_json(run.folder / "attempts.json").get("seconds", []))
