"""What counts as a mistake of the user, however deep it lies in a chain of exceptions."""

from __future__ import annotations

import errno

import pytest

from medsegdiff.errors import DataError, SpecError, find_user_error


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
