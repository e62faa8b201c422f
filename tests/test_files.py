"""Files appear whole, or not at all."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from medsegdiff.errors import DataError
from medsegdiff.files import remove_unfinished, remove_unfinished_of, sha256_of, temporary_name, written_whole


def test_the_file_appears_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with written_whole(path, advice="…") as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.parent == path.parent
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DataError),
        (RuntimeError("unexpected pos 704 vs 598"), DataError),  # of torch.save
        (KeyError("defect"), KeyError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_failure_leaves_what_was_there(tmp_path, failure, raised):
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write_half() -> None:
        with written_whole(path, advice="free space") as partial:
            partial.write_text("ha")
            raise failure

    with pytest.raises(raised) as caught:
        write_half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    if raised is DataError:
        assert str(caught.value).startswith(f"{path} cannot be written (")
        assert str(caught.value).endswith("; free space")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    def write() -> None:
        with written_whole(tmp_path / "file" / "deeper.txt", advice="choose another folder") as partial:
            partial.write_text("")

    with pytest.raises(DataError, match=r"deeper\.txt cannot be written .*; choose another folder"):
        write()


def test_processes_of_one_number_and_threads_do_not_meet(tmp_path):
    path = tmp_path / "file.txt"
    with written_whole(path, advice="…") as first:
        first.write_text("first")
        with written_whole(path, advice="…") as second:  # as in a container of the same host's name
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_of_a_host_leaves_room_for_that_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node.of.a.cluster." * 3)
    with written_whole(tmp_path / ("x" * 220), advice="…") as partial:
        partial.touch()


def test_only_what_the_process_named_has_left_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "a[1].nii.gz"
    names = []
    for host, process in (("one", 7), ("one", 77), ("two", 7)):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        names += [temporary_name(path), temporary_name(path)]
    for name in (path, *names):
        name.touch()
    remove_unfinished_of(path, host="one", process="7")
    assert sorted(tmp_path.iterdir()) == sorted([path, *names[2:]])


def test_what_a_killed_process_left_is_removed(tmp_path):
    with written_whole(tmp_path / "model.pt", advice="…") as partial:
        partial.touch()
    kept = [tmp_path / "model.pt", tmp_path / ".hidden", tmp_path / "log.12"]
    for path in (partial, tmp_path / ".model.pt.12", *kept):
        path.touch()
    remove_unfinished(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_the_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
