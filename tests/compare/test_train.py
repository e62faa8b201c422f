"""Training in a process of its own: what it is given, what its end means, and how it goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from medsegdiff.compare import train
from medsegdiff.compare.digests import digest_of
from medsegdiff.compare.runs import DONE, FAILED, read_json
from medsegdiff.compare.train import train_run, training_command
from medsegdiff.errors import SpecError

# What stands for the bundle's training: it notes its arguments, says some lines and leaves what training would.
SCRIPT = """
import json, shutil, sys
from pathlib import Path
arguments = json.loads(Path(sys.argv[1]).read_text())
folder = Path(arguments["run_dir"])
folder.mkdir(parents=True, exist_ok=True)
for epoch in range(1, arguments["epochs"] + 1):
    print(f"now - x.DiffusionTrainer - INFO - Epoch[{epoch}] Complete. Time taken: 0", flush=True)
shutil.copy(sys.argv[2], folder / "checkpoint.pt")
(folder / "model.pt").write_text("weights")
"""


@pytest.fixture
def instead(monkeypatch, tmp_path):
    """Puts a script in place of the bundle's training."""
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save({"epoch": 2}, checkpoint)  # not in the script, which would take seconds to import torch

    def put(script=SCRIPT):
        monkeypatch.setattr(
            train,
            "training_command",
            lambda bundle, arguments: [sys.executable, "-c", script, str(arguments), str(checkpoint)],
        )

    return put


@pytest.fixture
def run(plan_study):
    return plan_study().runs[1]


def test_the_command_is_the_documented_one(run):
    command = training_command(run.training.bundle, run.folder / "arguments.json")
    assert command[1:6] == ["-m", "monai.bundle", "run", "training", "--config_file"]
    assert command[6] == str(run.training.bundle / "configs" / "train.json")


def test_a_run_that_ends_well_is_recorded(run, instead):
    instead()
    seen = []
    assert train_run(run, device="cpu", watch=lambda done, of: seen.append((done, of)))

    record = run.record(DONE)
    assert (record["optimiser_steps"], record["epochs"]) == (6, 2)
    assert record["parameters"] == run.training.parameters > 0
    assert record["train_minutes"] > 0 and record["machine"]
    arguments = read_json(run.folder / "arguments.json")
    assert arguments["epochs"] == 2 and arguments["resume"] is True and arguments["device"] == "cpu"
    assert arguments["method"] == "diffusion" and arguments["network_options"]["channels"] == [4, 4]
    assert read_json(run.folder / "settings.json") == json.loads(json.dumps(dict(run.settings)))
    assert "Epoch[2]" in run.log.read_text()
    assert not (run.folder / "process.json").exists()


def test_a_finished_run_is_kept(run, instead):
    instead()
    train_run(run, device="cpu")
    before = run.record(DONE)
    instead("raise SystemExit(1)")
    assert train_run(run, device="cpu")
    assert run.record(DONE) == before


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "print('TypeError: no lrr\\n\\nRuntimeError: Failed to instantiate X with lrr'); raise SystemExit(1)",
            "RuntimeError: Failed to instantiate X with lrr: TypeError: no lrr",
        ),
        ("print('error: amp is odd; give another'); raise SystemExit(2)", "amp is odd; give another"),
        ("print('fine'); raise ValueError('two\\nlines')", "ValueError: two"),
        ("import sys; print('loading', flush=True); sys.exit(3)", "loading"),
        ("import sys; sys.exit(3)", "no word in its log"),
        ("import os; print('half way', flush=True); os.kill(os.getpid(), 9)", "killed by signal 9, mostly for want"),
        ("print('all done')", "training wrote no model.pt"),
    ],
)
def test_a_run_that_fails_says_why_in_one_line(run, instead, script, reason):
    instead(script)
    assert not train_run(run, device="cpu")

    said = run.record(FAILED)["reason"]
    assert said.startswith(reason) and "\n" not in said
    instead()
    assert train_run(run, device="cpu"), "another call tries again"
    assert run.state == DONE


def test_the_weights_of_each_sampler_are_recorded_and_missed(plan_study, instead):
    study = {"methods": ["diffusion"], "evaluation": {"samplers": ["ddpm", "ddim"], "steps": [2]}}
    run = plan_study(**study, weights="each_sampler").runs[0]
    instead()
    assert not train_run(run, device="cpu")
    assert run.record(FAILED)["reason"].startswith("training wrote no model_ddim.pt")
    run.weights["ddim"].write_bytes(b"found best")
    assert train_run(run, device="cpu")
    assert run.record(DONE)["weights_of"] == {"ddim": digest_of(run.weights["ddim"])}


def test_minutes_of_interrupted_attempts_count(run, instead):
    """An attempt that was killed with the study has worked until its last checkpoint."""
    instead()
    run.prepare_folder()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (run.folder / "training").mkdir()
    checkpoint = run.folder / "training" / "checkpoint.pt"
    checkpoint.touch()
    now = time.time()
    os.utime(checkpoint, (now, now - 40))
    (run.folder / "process.json").write_text(json.dumps({"pid": ended.pid, "created": now - 640}))

    assert train_run(run, device="cpu")
    assert run.record(DONE)["train_minutes"] == pytest.approx(10, abs=1)


def test_a_process_that_trains_still_is_left_alone(run, instead):
    import psutil

    instead()
    run.prepare_folder()
    note = {"pid": os.getpid(), "created": psutil.Process().create_time()}
    (run.folder / "process.json").write_text(json.dumps(note))
    with pytest.raises(SpecError, match=f"is being trained by process {os.getpid()}"):
        train_run(run, device="cpu")

    (run.folder / "process.json").write_text(json.dumps({**note, "created": 5.0}))
    assert train_run(run, device="cpu"), "another process that has this number now"


def test_a_folder_of_another_run_is_refused(run, instead):
    instead()
    run.prepare_folder()
    (run.folder / "settings.json").write_text(json.dumps({**run.settings, "seed": 4}))
    with pytest.raises(SpecError, match="seed=4"):
        train_run(run, device="cpu")


def test_a_budget_of_minutes_becomes_epochs_once(plan_study, instead, monkeypatch):
    run = plan_study(budget={"minutes": 1}).runs[0]
    monkeypatch.setattr(train, "measure_step_seconds", lambda training: 2.0)
    instead("raise SystemExit(1)")
    train_run(run, device="cpu")
    assert read_json(run.folder / "arguments.json")["epochs"] == 10  # 30 steps, 3 an epoch

    monkeypatch.setattr(train, "measure_step_seconds", lambda training: 1.0)
    instead()
    train_run(run, device="cpu")
    assert run.record(DONE)["epochs"] == 10, "the learning rate's end must not move on resuming"


def test_steps_are_timed(run):
    from medsegdiff.compare.timing import measure_step_seconds

    assert 0 < measure_step_seconds(run.training, batches=2) < 60
    assert not run.folder.exists()
