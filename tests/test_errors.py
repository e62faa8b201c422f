"""What counts as a mistake of the user, however deep it lies in a chain of exceptions."""

from __future__ import annotations

import errno
import logging
import sys
import threading

import pytest
from ignite.engine import Engine, Events
from monai.handlers import StatsHandler

from medsegdiff.errors import DataError, SpecError, find_user_error, report_user_errors


def chained(first: BaseException, *, cause: bool = False) -> BaseException:
    """An exception that wraps `first`, as MONAI's parser does, or was raised while it was handled."""
    outer = RuntimeError("failed to instantiate")
    setattr(outer, "__cause__" if cause else "__context__", first)
    return outer


@pytest.mark.parametrize("cause", [True, False])
def test_a_user_error_is_found_behind_what_wraps_it(cause):
    wrong = SpecError("no such method")
    assert find_user_error(chained(wrong, cause=cause)) is wrong


def test_defects_are_none():
    assert find_user_error(None) is None
    assert find_user_error(chained(ValueError("defect"))) is None
    assert find_user_error(OSError(errno.EIO, "Input/output error", "x")) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_whoever_writes(number):
    error = find_user_error(chained(OSError(number, "No space left on device", "/data/events.out")))
    assert isinstance(error, DataError)
    assert str(error).startswith("/data/events.out cannot be written (No space left on device); free space")
    assert "a file of this run cannot be written" in str(find_user_error(OSError(number, "full")))


def keep_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sys, threading):
        monkeypatch.setattr(module, "excepthook", module.excepthook)


@pytest.mark.parametrize(("error", "shown"), [(DataError("disk full"), 0), (KeyError("defect"), 1)])
def test_what_ends_a_run_has_a_traceback_only_where_it_is_a_defect(monkeypatch, error, shown):
    keep_hooks(monkeypatch)

    def fail(engine):
        raise error

    handler = StatsHandler(iteration_log=False)
    records = []
    monkeypatch.setattr(handler.logger, "handlers", [keeper := logging.Handler()])
    monkeypatch.setattr(keeper, "emit", records.append)
    report_user_errors()
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, fail)
    with pytest.raises(type(error)):
        engine.run([0])
    assert len([record for record in records if record.exc_info]) == shown


def test_a_thread_that_meets_a_full_disk_says_it_in_a_line(monkeypatch, capsys):
    others = []
    monkeypatch.setattr(threading, "excepthook", others.append)
    keep_hooks(monkeypatch)
    report_user_errors()

    def fail(error):
        raise error

    for error in (OSError(errno.ENOSPC, "No space left on device", "/data/events.out"), KeyError("defect")):
        thread = threading.Thread(target=fail, args=[error])
        thread.start()
        thread.join()
    assert capsys.readouterr().err.startswith("error: /data/events.out cannot be written (No space left on device);")
    assert [failure.exc_type for failure in others] == [KeyError]
