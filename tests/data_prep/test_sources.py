from __future__ import annotations

import os

import pytest

from data_prep import sources
from data_prep.drafts import Draft
from data_prep.sources import Source
from medsegdiff.errors import DataError, SpecError


@pytest.fixture
def draft(tmp_path):
    folder = tmp_path / ".out.draft"
    folder.mkdir()
    return Draft(folder, {})


@pytest.fixture
def nested(tmp_path, pack):
    """A zip with a text and a tar, in which there is a folder with a file."""
    (tmp_path / "inner" / "data").mkdir(parents=True)
    (tmp_path / "inner" / "data" / "a.nii").write_text("voxels")
    (tmp_path / "inner" / "data" / "._a.nii").write_text("resource fork")
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "index.txt").write_text("a 1")
    pack(tmp_path / "inner", tmp_path / "outer" / "data.tar")
    return tmp_path / "outer"


def test_a_folder_has_its_files_by_their_names(nested, draft):
    source = Source(nested, draft)
    assert source.files == {name: nested / name for name in ("data.tar", "index.txt")}
    assert not source.is_extracted(nested / "index.txt")
    assert not source.scratch.exists()


@pytest.mark.parametrize("kind", ["folder", "outer.zip", "outer.tar.gz"])
def test_what_is_packed_inside_is_named_after_its_archive(nested, draft, tmp_path, pack, kind):
    source = Source(nested if kind == "folder" else pack(nested, tmp_path / kind), draft)
    assert list(source.closed_archives) == ["data.tar"]
    assert source.open_archives()
    assert set(source.files) == {"data.tar", "index.txt", "data.tar/data/a.nii"}
    file = source.files["data.tar/data/a.nii"]
    assert file.read_text() == "voxels"
    assert source.is_extracted(file)
    assert source.in_own_terms(f"{file}: is wrong") == "data.tar/data/a.nii: is wrong"
    index = source.files["index.txt"]
    assert source.in_own_terms(f"{file} and {index}") == "data.tar/data/a.nii and index.txt"
    assert source.closed_archives == {}
    assert not source.open_archives()
    source.remove_extracted()
    assert not source.scratch.exists()
    assert (nested / "data.tar").exists()


def test_an_archive_is_extracted_once_and_again_when_it_changes(nested, draft, tmp_path, pack, monkeypatch):
    extracted = []
    monkeypatch.setattr(
        sources, "extract_archive", lambda archive, folder: (extracted.append(archive.name), folder.mkdir(parents=True))
    )
    archive = pack(nested, tmp_path / "outer.zip")
    for _ in range(2):
        Source(archive, draft)
    assert extracted == ["outer.zip"]
    os.utime(archive, (0, 0))
    Source(archive, draft)
    assert extracted == ["outer.zip"] * 2


def test_an_extraction_that_was_cut_off_is_done_again(nested, draft, tmp_path, pack, monkeypatch):
    archive = pack(nested, tmp_path / "outer.zip")

    def fail(archive, folder):
        folder.mkdir(parents=True)
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "extract_archive", fail)
    with pytest.raises(OSError, match="No space left"):
        Source(archive, draft)
    monkeypatch.undo()
    assert list((draft.folder / ".extracted").iterdir()) == []
    assert "half" not in Source(archive, draft).files


def test_links_into_archives_are_refused(nested, draft, tmp_path, pack):
    message = "got link for an archive; allowed is a folder; extract it first"
    with pytest.raises(SpecError, match=rf"outer\.zip: {message}"):
        Source(pack(nested, tmp_path / "outer.zip"), draft, link=True)
    source = Source(nested, draft, link=True)
    with pytest.raises(SpecError, match=rf"data\.tar: {message}"):
        source.open_archives()


def test_a_file_that_is_no_archive_is_refused(tmp_path, draft):
    (tmp_path / "notes.zip").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.zip: got a file that is no archive"):
        Source(tmp_path / "notes.zip", draft)
