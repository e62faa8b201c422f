from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.drafts import PROGRESS_FILE, Unfinished, resumable
from medsegdiff.errors import DataError

PURPOSE = {"source": "a.zip", "link": False}
STEPS = ("first", "second", "third")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "new" / "out"


def _make(output, *, stop_at=None, error=KeyboardInterrupt, purpose=PURPOSE, key=(1, "a")):
    """Write a file a step, skipping what is done; returns the steps that were taken."""
    taken = []
    with resumable(output, purpose=purpose) as draft:
        for step in STEPS:
            if draft.result_of(step, key) is None:
                if step == stop_at:
                    raise error
                (draft.folder / step).write_text(step)
                draft.record(step, key, {"made": step})
                taken.append(step)
            assert draft.result_of(step, key) == {"made": step}
    return taken


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exists", [False, True])
def test_the_folder_appears_at_the_end_and_alone(output, exists):
    if exists:
        output.mkdir(parents=True)
    with resumable(output, purpose=PURPOSE) as draft:
        (draft.folder / "file").touch()
        assert draft.folder.name.startswith(".")
        assert not (output / "file").exists()
    assert _names(output) == ["file"]
    assert _names(output.parent) == ["out"]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), Unfinished("no memory"), OSError(28, "No space left"), ZeroDivisionError()]
)
def test_after_an_interruption_the_next_run_takes_the_other_steps_only(output, error):
    with pytest.raises(DataError if isinstance(error, OSError) else type(error)):
        _make(output, stop_at="third", error=error)
    assert not output.exists()
    assert _make(output) == ["third"]
    assert _names(output) == sorted(STEPS)
    assert _names(output.parent) == ["out"]


def test_a_full_disk_says_that_the_same_command_goes_on(output):
    message = "out: cannot be made .*No space left.*what is done is kept, and the same command goes on from there"
    with pytest.raises(DataError, match=message):
        _make(output, stop_at="second", error=OSError(28, "No space left"))


def test_an_interruption_is_logged_with_what_to_do(output, caplog):
    with pytest.raises(KeyboardInterrupt):
        _make(output, stop_at="second")
    assert "what is done is kept, and the same command goes on from there" in caplog.text


@pytest.mark.parametrize("error", [DataError("no pair"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_nothing_remains_of_a_draft_without_a_finished_step(output, error):
    with pytest.raises((DataError, KeyboardInterrupt)):
        _make(output, stop_at="first", error=error)
    assert not output.parent.exists()


def test_nothing_remains_after_a_mistake_that_another_run_would_meet_again(output):
    with pytest.raises(DataError, match="no pair"):
        _make(output, stop_at="third", error=DataError("no pair"))
    assert not output.parent.exists()


def test_a_draft_of_another_purpose_is_not_gone_on_with(output, caplog):
    caplog.set_level("INFO")
    with pytest.raises(KeyboardInterrupt):
        _make(output, stop_at="third")
    (output.parent / ".out.draft" / "old").mkdir()
    assert _make(output, purpose=PURPOSE | {"link": True}) == list(STEPS)
    assert "starting anew" in caplog.text
    assert _names(output) == sorted(STEPS)


def test_a_step_of_another_key_is_taken_again(output):
    with pytest.raises(KeyboardInterrupt):
        _make(output, stop_at="third", key=(1, "a"))
    assert _make(output, key=(2, "a")) == list(STEPS)


@pytest.mark.parametrize("half", [b'{"step": "third", "key": [1, "a"', b'{"step": "thi\n', b"\xff"])
def test_a_line_that_was_not_written_to_its_end_is_dropped(output, half):
    with pytest.raises(KeyboardInterrupt):
        _make(output, stop_at="second")
    notes = output.parent / ".out.draft" / PROGRESS_FILE
    notes.write_bytes(notes.read_bytes() + half)
    with pytest.raises(KeyboardInterrupt):  # the step of the next line can be read again
        _make(output, stop_at="third")
    assert _make(output) == ["third"]


def test_one_process_at_a_time(output):
    with resumable(output, purpose=PURPOSE) as draft:
        (draft.folder / "file").touch()
        with (
            pytest.raises(DataError, match="out: another process is making it; allowed is one at a time"),
            resumable(output, purpose=PURPOSE),
        ):
            pytest.fail("the folder was handed out twice")
    assert _names(output) == ["file"]


def test_a_process_that_is_killed_leaves_no_output_and_no_lock(output):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from data_prep.drafts import resumable\n"
        f"with resumable(Path(sys.argv[1]), purpose={PURPOSE!r}) as draft:\n"
        "    (draft.folder / 'first').write_text('first')\n"
        "    draft.record('first', (1, 'a'), {'made': 'first'})\n"
        "    (draft.folder / 'second').write_text('sec')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", script, str(output)], check=False, cwd=root)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    assert _make(output) == ["second", "third"]
    assert (output / "second").read_text() == "second"
    assert _names(output.parent) == ["out"]


def test_an_output_that_holds_files_or_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for place, message in (
        (tmp_path, "allowed is a new or empty folder"),
        (tmp_path / "file", "allowed is a new or empty folder"),
        (tmp_path / "file" / "out", r"out: cannot be made .*; needed are a readable source"),
    ):
        with pytest.raises(DataError, match=message), resumable(place, purpose=PURPOSE):
            pytest.fail("the folder was handed out")
    assert os.listdir(tmp_path) == ["file"]
