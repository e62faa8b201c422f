"""The one family of exceptions for mistakes that a user can mend.

Whatever is raised from this family carries a message of one line that says what was got, what is allowed and what to
do. The command line and the bundles print that line and exit with code 2; every other exception is a defect of ours
and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

USER_ERROR_EXIT_CODE = 2
_STATS_LOGGER = "monai.handlers.StatsHandler"  # logs what ends a run with its traceback, before raising it again


class MedSegDiffError(ValueError):
    """A mistake in what the user gave; the message is one line: got, allowed, what to do."""


class SpecError(MedSegDiffError):
    """A setting that does not exist or does not fit the others (method, size, sampler, steps, …)."""


class DataError(MedSegDiffError):
    """A file or folder that is missing, unreadable or not what the task expects."""


class WeightsError(MedSegDiffError):
    """Weights that do not belong to the network they are loaded into."""


def check_options(
    function: Callable[..., Any],
    options: Iterable[str],
    owner: str,
    *,
    leave_out: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> None:
    """Make sure that a function has keyword-only arguments of these names.

    Args:
        function: what the options go to; its keyword-only arguments are what is allowed.
        options: names that were given.
        owner: what has the options, for the message, such as "sampler 'ddim'".
        leave_out: keyword-only arguments that are no options of a user.
        beside: names that are options too, though not the function's.

    Raises:
        SpecError: one of the names is not among them.
    """
    parameters = inspect.signature(function).parameters.values()
    allowed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in leave_out]
    allowed += beside
    for name in options:
        if name not in allowed:
            msg = f"{owner} has no option {name!r}; its options are {', '.join(allowed) or 'none'}"
            raise SpecError(msg)


def check_at_least(least: int, **settings: int | None) -> None:
    """Make sure that counts are not too small; None is a setting that was not given.

    Raises:
        SpecError: one of the settings, which are given by their names, is below `least`.
    """
    for name, value in settings.items():
        if value is not None and value < least:
            msg = f"{name} is {value}; give at least {least}"
            raise SpecError(msg)


def find_user_error(error: BaseException | None) -> MedSegDiffError | None:
    """Return the user error behind `error`, following causes and contexts, or None when there is none.

    A full disk is one too, whoever was writing.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MedSegDiffError):
            return error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            name = "a file of this run" if error.filename is None else error.filename
            return DataError(f"{name} cannot be written ({error.strerror}); free space, or have results go elsewhere")
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def one_line(error: BaseException) -> str:
    """The message of `error` on a single line."""
    return " ".join(str(error).split())


@contextlib.contextmanager
def plain_user_errors() -> Iterator[None]:
    """Let a user error through as it was raised: MONAI's parser and transforms wrap it into others."""
    try:
        yield
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None or user_error is error:
            raise
        raise user_error from error


def report_user_errors() -> None:
    """Make the running process print user errors as one line and exit with code 2.

    `python -m monai.bundle run` wraps every exception in a traceback of the configuration parser; bundles call this
    in their `initialize` section so that a wrong `--method` reads like a message instead, and so does what ends a
    run later, such as a full disk. Errors of other kinds keep their traceback.
    """
    logging.getLogger(_STATS_LOGGER).addFilter(_is_no_user_error)
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        user_error = find_user_error(error)
        if user_error is None:
            previous(kind, error, trace)
            return
        _say(user_error)
        # The interpreter honours a SystemExit that leaves the hook: its code becomes that of the process.
        raise SystemExit(USER_ERROR_EXIT_CODE)

    previous_in_threads = threading.excepthook

    def hook_in_threads(failure: threading.ExceptHookArgs) -> None:
        user_error = find_user_error(failure.exc_value)
        if user_error is None:
            previous_in_threads(failure)
        else:  # what the thread served, such as TensorBoard's writer, fails as well and ends the run
            _say(user_error)

    sys.excepthook = hook
    threading.excepthook = hook_in_threads


def _say(error: MedSegDiffError) -> None:
    sys.stderr.write(f"error: {one_line(error)}\n")  # at once, for lines of two threads not to mix


def _is_no_user_error(record: logging.LogRecord) -> bool:
    """Whether a line of a log is to be shown: a user error is told at the end, in one line."""
    return record.exc_info is None or find_user_error(record.exc_info[1]) is None
