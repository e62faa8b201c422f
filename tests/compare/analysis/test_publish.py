"""What a repository keeps of a study is light, says nothing of the machine, and gives the same numbers."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from medsegdiff.compare.analysis.pictures import read_snapshots
from medsegdiff.compare.analysis.publish import copy_study, publish_study, without_folders
from medsegdiff.errors import DataError, SpecError

METHODS = ("recycling", "supervised")


@pytest.fixture(scope="module")
def study(tmp_path_factory, study_cases, study_runs):
    """The folder of a study, with the pictures of two cases."""
    folder = tmp_path_factory.mktemp("study")
    study_cases.to_csv(folder / "cases.csv", index=False)
    runs = study_runs.assign(
        reason=study_runs["reason"].replace("the loss is not finite", "/home/me/x y: /a/b.pt is bad")
    )
    runs.to_csv(folder / "runs.csv", index=False)
    (folder / "study.yaml").write_text("name: tiny\nbundle: b\nbudget: {steps: 100}\nmethods: [recycling]\n")
    (folder / "runs").mkdir()
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for place, case in enumerate(("one", "two")):
        image = generator.normal(500, 100, (30, 12, 12)).astype(np.float32)
        truth = np.zeros(image.shape, dtype=np.uint8)
        truth[12:16, 4:8, 4:8] = 1
        for shift, name in enumerate(METHODS):
            np.savez_compressed(
                folder / "pictures" / f"{place:04d}-{case}-{name}.npz",
                image=image,
                truth=truth,
                prediction=np.roll(truth, shift, axis=0),
                entropy=generator.uniform(0, 1, truth.shape).astype(np.float32),
                steps=np.stack([truth] * (1 if name == "supervised" else 3)),
                spacing=np.ones(3),
                method=np.array(name),
                options=np.array(""),
                case=np.array(case),
                rank=np.array("best"),
            )
    return folder


@pytest.fixture(scope="module")
def published(study, tmp_path_factory):
    to = tmp_path_factory.mktemp("repository") / "results" / "tiny"
    assert publish_study(study, to) == to / "README.md"
    return to


def test_all_that_it_takes_to_make_it_again_and_no_more(published):
    names = {path.name for path in published.iterdir()}
    assert names == {
        *("README.md", "cases.csv.gz", "figures", "pictures", "report.html", "runs.csv", "study.yaml", "summary.json"),
    }
    page, report = ((published / name).read_text() for name in ("README.md", "report.html"))
    pictures = {path.name for path in (published / "figures").iterdir()}
    assert {"case_1_overview.png", "step_curves.png"} <= pictures
    assert all(f"figures/{name}" in report and f"figures/{name}" in page for name in pictures)
    assert "base64" not in report


def test_folders_are_taken_out_of_reasons(published):
    assert "x y: b.pt is bad" in (published / "runs.csv").read_text()
    for name in ("runs.csv", "summary.json", "README.md", "report.html"):
        assert "/home" not in (published / name).read_text()


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("dataset_dir: /home/Max Muster/data/hippocampus", "dataset_dir: hippocampus"),
        ("split_file: '/data/split.json'  ", "split_file: 'split.json'"),
        ("dataset_dir: data/hippocampus", "dataset_dir: data/hippocampus"),
        ("# see /data/README", "# see /data/README"),
    ],
)
def test_a_study_file_keeps_only_the_names_of_what_lies_on_this_machine(tmp_path, line, kept):
    (tmp_path / "study.yaml").write_text(f"name: tiny\n{line}\nsize: small\n")
    copy_study(tmp_path / "study.yaml", tmp_path / "copy.yaml")
    assert (tmp_path / "copy.yaml").read_text() == f"name: tiny\n{kept}\nsize: small\n"


def test_a_home_folder_with_a_space_is_taken_out_of_reasons(monkeypatch):
    monkeypatch.setenv("HOME", "/home/Max Muster")
    assert without_folders("/home/Max Muster/x/a.nii cannot be read") == "a.nii cannot be read"
    assert without_folders("/home/Max Muster/a.nii cannot be read") == "a.nii cannot be read"


def test_what_was_published_stays_where_the_new_one_cannot_be_put(study, tmp_path, monkeypatch):
    to = tmp_path / "tiny"
    publish_study(study, to)
    before = (to / "summary.json").read_bytes()
    rename = Path.rename

    def fail(path, target):
        if path.name == "study":
            raise OSError(errno.ENOSPC, "no space")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DataError, match="cannot be written"):
        publish_study(study, to)
    assert (to / "summary.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_pictures_show_what_they_showed(study, published):
    before, after = (read_snapshots(folder / "pictures") for folder in (study, published))
    size = [sum(path.stat().st_size for path in (folder / "pictures").iterdir()) for folder in (study, published)]
    assert size[1] < size[0] / 3
    shown = (slice(6, 23), slice(0, 12), slice(0, 12))
    for old, new in zip(before, after, strict=True):
        assert (old.case, old.method, old.rank, old.spacing) == (new.case, new.method, new.rank, new.spacing)
        for name in ("truth", "prediction", "steps"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
        np.testing.assert_allclose(new.uncertainty[shown], old.uncertainty[shown], atol=0.009)
        assert np.corrcoef(new.image[shown].astype(float).ravel(), old.image[shown].ravel())[0, 1] > 0.99
        assert not new.image[23:].any() and not new.uncertainty[:6].any()


def test_publishing_again_gives_the_same_files_and_leaves_none_of_before(study, published):
    before = {path: path.read_bytes() for path in published.rglob("*") if path.is_file()}
    (published / "figures" / "old.png").touch()
    publish_study(study, published)
    assert {path: path.read_bytes() for path in published.rglob("*") if path.is_file()} == before
    assert [path.name for path in published.parent.iterdir()] == ["tiny"]


def test_what_is_published_can_be_published(published, tmp_path):
    publish_study(published, tmp_path / "again")
    old, new = (json.loads((folder / "summary.json").read_text()) for folder in (published, tmp_path / "again"))
    assert old == new


def test_other_folders_are_left_alone(study, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").touch()
    for to in (tmp_path / "letters", study):
        with pytest.raises(SpecError, match="holds something that is no published study"):
            publish_study(study, to)
    with pytest.raises(DataError, match=r"cases\.csv has no column"):
        publish_study(tmp_path / "letters", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters"]
