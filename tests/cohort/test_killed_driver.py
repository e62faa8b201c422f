"""The command, killed in the middle and resumed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK
from typer.testing import CliRunner

from medsegdiff.cli.main import app
from medsegdiff.cohort.manifest import Manifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes"),
]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'medsegdiff[ray]'"
)
PATIENCE = 480.0


def _save(path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.random.default_rng(0).random((10, 9, 8), np.float32)), path)


def _wait(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("engine", ["in-process", pytest.param("ray", marks=needs_ray)])
def test_a_run_that_is_killed_is_resumed_where_it_was(engine, tiny_bundle, tmp_path):
    """One image is a pipe that nobody writes to: whoever reads it hangs, and the kill always finds it there."""
    images, out = [tmp_path / f"{name}.mha" for name in "abcd"], tmp_path / "out"
    for image in images:
        _save(image)
    images[2].unlink()
    os.mkfifo(images[2])
    command = ["predict", *images, "--bundle", tiny_bundle, "--output", out, "--device", "cpu", "--seed", 3]
    command = [str(word) for word in command]
    options = ["--engine", engine, "--workers", "2"] if engine == "ray" else []
    before_c = {"a": "done", "b": "done", "c": "started"} | ({"d": "done"} if engine == "ray" else {})

    def status():
        return {name: record["status"] for name, record in Manifest(out).read().items()}

    driver = subprocess.Popen(
        [sys.executable, "-m", "medsegdiff.cli.main", *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    try:
        _wait(lambda: status() == before_c or driver.poll() is not None)
    finally:
        driver.send_signal(signal.SIGKILL)
        stdout, stderr = driver.communicate()
    # Where loading takes minutes, the engine on Ray says that it waits.
    assert stdout == b"" and [line for line in stderr.splitlines() if not line.startswith(b"waiting: ")] == []
    worker = int(Manifest(out).read()["c"]["worker"].split(":")[1])
    _wait(lambda: not _is_alive(worker))

    images[2].unlink()
    _save(images[2])
    kept = {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name, state in before_c.items() if state == "done"}
    result = CliRunner().invoke(app, [*command, "--resume"])
    left = "1 interrupted" if engine == "ray" else "1 interrupted, 1 new"
    assert result.exit_code == 0 and result.stdout.startswith("4 of 4 cases are segmented")
    assert result.stderr == f"resume: {len(kept)} of 4 done already; to do: {left}\n"
    assert status() == dict.fromkeys("abcd", "done")
    assert {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in kept} == kept
    assert sorted(os.listdir(out)) == [*(f"{name}.nii.gz" for name in "abcd"), "manifest.jsonl", "report.json"]
    report = json.loads((out / "report.json").read_text())
    assert (report["done"], report["resumed"], report["failed"]) == (4, len(kept), 0)
