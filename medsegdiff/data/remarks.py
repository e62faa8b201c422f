"""What a check has to say about a data set, one line a finding."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from medsegdiff.errors import DataError, one_line

Severity = Literal["error", "warning", "note"]
"""With an error training would fail or be wrong, a warning should be looked at, a note is good to know."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Remark:
    """One finding.

    Attributes:
        severity: "error", "warning" or "note".
        case: name of the case; empty where it is about the whole data set.
        text: one line.
    """

    severity: Severity
    case: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.case or 'data set'}: {self.text}"


class Remarks(list[Remark]):
    """Remarks as they come, all about one case.

    Args:
        case: its name; empty for the whole data set.
    """

    def __init__(self, case: str = "") -> None:
        super().__init__()
        self.case = case

    def add(self, severity: Severity, text: str) -> None:
        """Add a remark."""
        self.append(Remark(severity, self.case, text))

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Make a remark of a `DataError` that ends the block, and go on after it."""
        try:
            yield
        except DataError as error:
            self.add("error", one_line(error))

    @contextlib.contextmanager
    def warnings_of(self, logger: str) -> Iterator[None]:
        """Make remarks of what is logged as a warning inside the block, in place of logging it.

        Args:
            logger: name of a logger; those below it are meant, too.
        """
        source, handler = logging.getLogger(logger), _ToRemarks(self)
        propagate, source.propagate = source.propagate, False
        source.addHandler(handler)
        try:
            yield
        finally:
            source.removeHandler(handler)
            source.propagate = propagate


class _ToRemarks(logging.Handler):
    def __init__(self, remarks: Remarks) -> None:
        super().__init__(logging.WARNING)
        self.remarks = remarks

    def emit(self, record: logging.LogRecord) -> None:
        self.remarks.add("warning", record.getMessage())
