from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from medsegdiff.cohort.manifest import MANIFEST_NAME, Manifest, input_state
from medsegdiff.errors import DataError


@pytest.fixture
def manifest(tmp_path):
    return Manifest(tmp_path)


def test_the_last_record_of_a_case_holds(manifest):
    for case, status in (("a", "started"), ("b", "started"), ("a", "done"), ("b", "done"), ("a", "failed")):
        manifest.append({"case": case, "status": status})
    assert manifest.read() == {"a": {"case": "a", "status": "failed"}, "b": {"case": "b", "status": "done"}}


def test_a_folder_without_manifest_has_no_records(manifest):
    assert manifest.read() == {}


def test_every_prefix_of_a_manifest_is_readable_and_can_be_gone_on_with(manifest):
    """What a kill in the middle of a write leaves is a prefix; the record it tears counts as not written."""
    for status in ("started", "done"):
        manifest.append({"case": "ä", "status": status})
    whole = manifest.path.read_bytes()
    second = whole.index(b"\n") + 1
    for length in range(len(whole) + 1):
        manifest.path.write_bytes(whole[:length])
        complete = [status for end, status in ((second - 1, "started"), (len(whole) - 1, "done")) if length >= end]
        assert [record["status"] for record in manifest.read().values()] == complete[-1:]
        manifest.append({"case": "b", "status": "done"})
        assert manifest.read()["b"] == {"case": "b", "status": "done"}
        assert [record["status"] for name, record in manifest.read().items() if name != "b"] == complete[-1:]


@pytest.mark.parametrize("line", [b"\x00\x00\x00", b"\xff\xfe", b"[1]", b'"a"', b"{}", b'{"case": 3}', b""])
def test_lines_of_other_kinds_are_passed_over(manifest, line):
    manifest.append({"case": "a", "status": "done"})
    with manifest.path.open("ab") as file:
        file.write(line + b"\n")
    manifest.append({"case": "b", "status": "done"})
    assert list(manifest.read()) == ["a", "b"]


def test_writers_at_the_same_time_lose_no_line(tmp_path):
    def write(number):
        for index in range(20):
            Manifest(tmp_path).append({"case": f"{number}_{index}", "status": "done", "filling": "x" * 20_000})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert len(Manifest(tmp_path).read()) == 120
    assert len((tmp_path / MANIFEST_NAME).read_bytes().splitlines()) == 120


def test_a_record_is_on_the_disk_when_append_returns(manifest, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    manifest.append({"case": "a", "status": "done"})
    assert synced == [manifest.path.stat().st_size]


def test_a_manifest_that_is_no_file_is_a_user_error(manifest):
    manifest.path.mkdir()
    with pytest.raises(DataError, match=r"manifest.jsonl cannot be read .* or leave out --resume"):
        manifest.read()
    with pytest.raises(DataError, match=r"manifest.jsonl cannot be written .* free space"):
        manifest.append({"case": "a", "status": "done"})


def _changes(path, *, touch):
    """Whether another time of change of the file `touch` changes the state of the input `path`."""
    before = input_state([path])
    assert input_state([path]) == before
    os.utime(touch, ns=(0, touch.stat().st_mtime_ns + 1))
    return input_state([path]) != before


def test_the_state_of_an_input_changes_with_its_files(tmp_path):
    for name in ("a.nii.gz", "a.mhd", "a.raw", "ab.raw", "series/1", "series/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _changes(tmp_path / "a.nii.gz", touch=tmp_path / "a.nii.gz")
    assert not _changes(tmp_path / "a.nii.gz", touch=tmp_path / "a.raw")
    assert _changes(tmp_path / "a.mhd", touch=tmp_path / "a.raw")
    assert not _changes(tmp_path / "a.mhd", touch=tmp_path / "ab.raw")
    assert _changes(tmp_path / "series", touch=tmp_path / "series" / "2")


def test_the_state_of_an_input_changes_with_its_size_and_when_it_goes(tmp_path):
    path = tmp_path / "a.nii.gz"
    states = [input_state([path])]
    for text in ("a", "ab"):
        path.write_text(text)
        os.utime(path, ns=(0, 0))
        states.append(input_state([path]))
    assert len(set(states)) == 3
