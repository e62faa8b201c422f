"""The index of a folder, changed by several at once."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.apps.label.store import CheckedStore


def test_what_two_processes_note_at_once_is_all_kept(studies):
    first, second = (CheckedStore(str(studies), extensions=["*.nii.gz"]) for _ in range(2))  # as if of two processes
    other = threading.Thread(target=second.update_image_info, args=("case_1", {"note": "second"}))
    with first.changing():
        other.start()
        other.join(0.3)
        assert other.is_alive()  # it waits
        first.update_image_info("case_0", {"note": "first"})
    other.join(10)
    assert not other.is_alive()
    noted = CheckedStore(str(studies), extensions=["*.nii.gz"])
    assert [noted.get_image_info(case).get("note") for case in ("case_0", "case_1")] == ["first", "second"]
