from __future__ import annotations

import logging

from medsegdiff.apps.label.logs import WithoutNames, note_defect


def _record(message, *arguments, error=None):
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.WARNING, "file", 1, message, arguments, info)
    assert WithoutNames("/data/studies").filter(record)
    return logging.Formatter("%(message)s").format(record)


def test_paths_of_studies_are_taken_out():
    text = _record("%s: channel %d is constant", "/data/studies/Doe_Jane.nii.gz", 2)
    assert text == "[an image]: channel 2 is constant"


def test_of_a_traceback_the_places_stay_and_the_message_goes():
    try:
        msg = "Doe^Jane"
        raise ValueError(msg)
    except ValueError as error:
        text = _record("it failed", error=error)
    assert "Doe" not in text
    assert "ValueError" in text
    assert "test_logs.py" in text


def test_a_defect_is_noted_without_its_message(tmp_path):
    try:
        msg = "Doe^Jane"
        raise KeyError(msg)
    except KeyError as error:
        path = note_defect(error, tmp_path / "work")
    assert "Doe^Jane" not in path.read_text()
    assert "KeyError at" in path.read_text()
