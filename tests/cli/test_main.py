from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import medsegdiff
from medsegdiff.cli import main as cli
from medsegdiff.errors import SpecError


def _run(*arguments):
    command = [sys.executable, "-m", "medsegdiff.cli.main", *map(str, arguments)]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


def test_the_version_is_printed(run):
    result = run("--version")
    assert (result.exit_code, result.stdout.strip()) == (0, f"medsegdiff {medsegdiff.__version__}")


def test_help_does_not_load_what_it_does_not_need():
    code = "import sys, medsegdiff.cli.main; print([m for m in ('torch', 'monai', 'nibabel') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_lists_the_commands_within_a_second_of_work():
    before = os.times()
    result = _run("--help")
    after = os.times()
    assert result.returncode == 0 and "predict" in result.stdout
    assert after.children_user - before.children_user < 1


@pytest.mark.parametrize("arguments", [("fly",), ("predict",), ("predict", "--steps", "many"), ("predict", "--fast")])
def test_wrong_usage_exits_with_2(run, arguments):
    assert run(*arguments).exit_code == 2


def test_a_user_error_of_any_command_is_one_line(run, monkeypatch):
    def fail(*_args, **_options):
        try:
            msg = "steps is 0;\n  give at least 1"
            raise SpecError(msg)
        except SpecError as error:
            raise RuntimeError from error

    monkeypatch.setattr("medsegdiff.data.writer.make_folder", fail)
    result = run("predict", "a.nii", "--bundle", "b", "--output", "c")
    assert result.exit_code == 2
    assert result.stderr == "error: steps is 0; give at least 1\n"


def test_a_defect_of_ours_keeps_its_traceback(run, monkeypatch):
    def fail(*_args, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("medsegdiff.data.writer.make_folder", fail)
    result = run("predict", "a.nii", "--bundle", "b", "--output", "c")
    assert isinstance(result.exception, ZeroDivisionError)


def test_main_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["medsegdiff", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert medsegdiff.__version__ in capsys.readouterr().out


def test_the_command_runs_as_a_process(tiny_bundle, save_image, tmp_path):
    image, out = save_image(tmp_path / "in" / "case.nii.gz"), tmp_path / "out"
    result = _run("predict", "--bundle", tiny_bundle, "--output", out, image, tmp_path / "nowhere.nii", "--device=cpu")
    assert result.returncode == 2
    assert result.stdout.startswith("1 of 2 cases are segmented")
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and "nowhere.nii: there is no such file" in line
    assert sorted(path.name for path in out.iterdir()) == ["case.nii.gz", "manifest.jsonl", "report.json"]


def test_a_terminated_command_leaves_as_an_interrupted_one_does():
    code = (
        "import os, signal; from medsegdiff.cli.main import leave_orderly_on_sigterm\n"
        "leave_orderly_on_sigterm()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "finally:\n    print('children are ended')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout.strip()) == (128 + signal.SIGTERM, "children are ended")
