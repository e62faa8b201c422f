from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from data_prep.folders import appearing_at_once, extract_archive, files_below
from medsegdiff.errors import DataError


def _archive(path, name="folder/file.txt", content=b"content" * 1000):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_archives_are_extracted(tmp_path, name):
    extract_archive(_archive(tmp_path / name), tmp_path / "out")
    assert (tmp_path / "out" / "folder" / "file.txt").read_bytes() == b"content" * 1000


@pytest.mark.parametrize("old", [False, True], ids=["this Python", "one without filters"])
def test_a_tar_that_points_out_of_the_folder_is_refused(tmp_path, monkeypatch, old):
    if old:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = _archive(tmp_path / "a.tar", name="../outside.txt")
    with pytest.raises(DataError, match=r"a\.tar: cannot be extracted .*outside"):
        extract_archive(archive, tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_tars_are_extracted_by_a_python_without_filters(tmp_path, monkeypatch, name):
    archive = _archive(tmp_path / name)
    extract_archive(archive, tmp_path / "new")
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    extract_archive(archive, tmp_path / "old")
    new, old = (
        {path.relative_to(tmp_path / folder): path.read_bytes() for path in files_below(tmp_path / folder)}
        for folder in ("new", "old")
    )
    assert new == old
    assert new


def test_a_zip_cannot_point_out_of_the_folder(tmp_path):
    extract_archive(_archive(tmp_path / "a.zip", name="../outside.txt"), tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_truncated_archive_is_refused(tmp_path, name, share):
    archive = _archive(tmp_path / name)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * share)])
    with pytest.raises(DataError, match=r"cannot be extracted|got a file that is no archive"):
        extract_archive(archive, tmp_path / "out")


def test_another_file_is_no_archive(tmp_path):
    (tmp_path / "notes.tar").write_text("hello " * 1000)
    with pytest.raises(DataError, match=r"notes\.tar: got a file that is no archive; allowed are tar, tar\.gz and zip"):
        extract_archive(tmp_path / "notes.tar", tmp_path / "out")


@pytest.mark.parametrize("exists", [False, True])
def test_the_folder_appears_at_the_end(tmp_path, exists):
    output = tmp_path / "new" / "out"
    if exists:
        output.mkdir(parents=True)
    with appearing_at_once(output) as draft:
        (draft / "file").touch()
        assert not (output / "file").exists()
    assert [path.name for path in output.iterdir()] == ["file"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [DataError, KeyboardInterrupt])
def test_after_an_error_nothing_remains(tmp_path, error):
    def write_half() -> None:
        with appearing_at_once(tmp_path / "new" / "out") as draft:
            (draft / "file").touch()
            raise error

    with pytest.raises(error):
        write_half()
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_not_overwritten(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="allowed is a new or empty folder"), appearing_at_once(output):
            pytest.fail("the folder was handed out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    message = r"out: cannot be made .*; needed are a readable source and a place with write permission"
    with pytest.raises(DataError, match=message), appearing_at_once(tmp_path / "file" / "out"):
        pytest.fail("the folder was handed out")
