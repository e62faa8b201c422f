"""The frame of all converters of 3-D data, with one that adds next to nothing to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest

from data_prep import volume_sets, volumes
from data_prep.conversion import About
from data_prep.drafts import Unfinished
from data_prep.settings import VolumeSettings
from data_prep.volume_folders import paired_volumes
from data_prep.volume_sets import FoundVolumes, convert_volumes
from medsegdiff.data.datalist import msd_datalist
from medsegdiff.data.splits import PARTS, kfold, proportional, read_folds
from medsegdiff.errors import DataError, SpecError

NAMES = [f"case_{index}" for index in range(6)]
ABOUT = About(
    name="task",
    description="a task",
    reference="somebody",
    licence="free",
    modalities=("CT",),
    classes=("background", "organ"),
)


@pytest.fixture
def source(tmp_path, save_volume, label_volume):
    for seed, name in enumerate(NAMES):
        save_volume(tmp_path / "source" / "imagesTr" / f"{name}.nii.gz", seed=seed)
        save_volume(tmp_path / "source" / "labelsTr" / f"{name}.nii.gz", label_volume(0, 1))
    return tmp_path / "source"


def _find(files):
    cases, misfits = paired_volumes(files, modality="CT")
    return FoundVolumes(cases=cases, misfits=misfits, left_out={"MR": 7})


def _convert(source, output, *, workers=1, link=False, **options):
    settings = VolumeSettings(workers=workers, link=link)
    return convert_volumes(source, output, about=ABOUT, find=_find, settings=settings, **options)


class Converted(list):
    """The names of the cases that were converted, in their order; at those of `stop_at` an error is raised instead."""

    def __init__(self):
        super().__init__()
        self.stop_at = {}

    def __call__(self, case, **options):
        if case.name in self.stop_at:
            raise self.stop_at[case.name]
        self.append(case.name)
        return volumes.convert_case(case, **options)


@pytest.fixture
def converted(monkeypatch):
    spy = Converted()
    monkeypatch.setattr(volume_sets, "convert_case", spy)
    return spy


def test_a_folder_becomes_a_checked_data_set(source, tmp_path, volumes_back):
    output = tmp_path / "out"
    conversion = _convert(source, output, more={"regions": {"organ": [1]}})
    assert conversion.kept == tuple(NAMES)
    assert conversion.split == proportional(NAMES)
    assert conversion.left_out == {"MR": 7}
    assert sorted(os.listdir(output)) == ["dataset.json", "imagesTr", "labelsTr", "misfits.json", "splits"]
    items = volumes_back(output, channels=1, num_classes=2)
    expected = nibabel.load(source / "imagesTr" / "case_3.nii.gz")
    np.testing.assert_array_equal(items[3]["image"][0], expected.dataobj)
    np.testing.assert_allclose(items[3]["image"].affine, expected.affine, atol=1e-6)
    datalist = msd_datalist(output)
    assert {part: [item["case"] for item in datalist[part]] for part in PARTS} == conversion.split
    assert read_folds(output / "splits" / "folds.json") == kfold(NAMES)
    content = json.loads((output / "dataset.json").read_text())
    assert content["regions"] == {"organ": [1]}
    assert json.loads((output / "misfits.json").read_text()) == {"misfits": [], "remarks": [], "left_out": {"MR": 7}}


def test_several_processes_give_what_one_gives(source, tmp_path, label_volume, save_volume, contents):
    save_volume(source / "labelsTr" / f"{NAMES[2]}.nii.gz", label_volume(0, 5))
    one = _convert(source, tmp_path / "one")
    assert [misfit.case for misfit in one.misfits] == [NAMES[2]]
    assert _convert(source, tmp_path / "two", workers=2) == one
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("inside", ["nothing", "a folder", "an archive"])
def test_archives_give_what_their_folder_gives(source, tmp_path, pack, contents, name, inside):
    _convert(source, tmp_path / "expected")
    packed = pack(source, tmp_path / "folder" / name)
    if inside == "a folder":
        packed = packed.parent
    elif inside == "an archive":
        packed = pack(packed.parent, tmp_path / "outer.zip")
    _convert(packed, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


def test_archives_beside_cases_stay_closed(source, tmp_path, pack, caplog):
    caplog.set_level("INFO")
    (tmp_path / "more").mkdir()
    pack(tmp_path / "more", source / "more.zip")
    assert len(_convert(source, tmp_path / "out").kept) == len(NAMES)
    assert "left closed, as cases lie beside them: more.zip" in caplog.text


@pytest.mark.parametrize("archive", [False, True])
def test_an_interrupted_conversion_goes_on_where_it_stopped(source, tmp_path, pack, contents, converted, archive):
    given = pack(source, tmp_path / "a.zip") if archive else source
    converted.stop_at[NAMES[3]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _convert(given, tmp_path / "out")
    assert converted == NAMES[:3]
    assert not (tmp_path / "out").exists()
    converted.stop_at.clear()
    assert _convert(given, tmp_path / "out").kept == tuple(NAMES)
    assert converted == NAMES
    _convert(source, tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_misfits_are_remembered_too(source, tmp_path, label_volume, save_volume, converted):
    save_volume(source / "labelsTr" / f"{NAMES[0]}.nii.gz", label_volume(0, 5))
    converted.stop_at[NAMES[2]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _convert(source, tmp_path / "out")
    converted.stop_at.clear()
    conversion = _convert(source, tmp_path / "out")
    assert converted == NAMES
    assert [misfit.reason.partition(":")[0] for misfit in conversion.misfits] == [f"labelsTr/{NAMES[0]}.nii.gz"]


def test_what_has_changed_since_is_converted_again(source, tmp_path, save_volume, converted):
    converted.stop_at[NAMES[4]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _convert(source, tmp_path / "out")
    draft = tmp_path / ".out.draft"
    (draft / "imagesTr" / f"{NAMES[0]}.nii.gz").write_bytes(b"lost in a power cut")
    save_volume(source / "imagesTr" / f"{NAMES[1]}.nii.gz", seed=100)
    for folder in ("imagesTr", "labelsTr"):
        (source / folder / f"{NAMES[2]}.nii.gz").unlink()
    (draft / "labelsTr" / ".case_9.nii.gz.4711").write_bytes(b"left by a process that was killed")
    converted.stop_at.clear()
    converted.clear()
    conversion = _convert(source, tmp_path / "out")
    assert converted == [NAMES[index] for index in (0, 1, 4, 5)]
    kept = [name for name in NAMES if name != NAMES[2]]
    assert conversion.kept == tuple(kept)
    for folder in ("imagesTr", "labelsTr"):
        assert sorted(os.listdir(tmp_path / "out" / folder)) == [f"{name}.nii.gz" for name in kept]
    for name in NAMES[:2]:
        path = Path("imagesTr", f"{name}.nii.gz")
        assert (tmp_path / "out" / path).read_bytes() == (source / path).read_bytes()


def test_other_options_start_anew(source, tmp_path, converted):
    converted.stop_at[NAMES[4]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        _convert(source, tmp_path / "out")
    converted.stop_at.clear()
    converted.clear()
    _convert(source, tmp_path / "out", link=True)
    assert converted == NAMES
    assert all(path.is_symlink() for path in (tmp_path / "out" / "imagesTr").iterdir())


def test_a_disk_that_fills_up_leaves_no_output_and_is_gone_on_from(source, tmp_path, monkeypatch):
    original, copied = shutil.copyfile, []

    def fail(file, target):
        if len(copied) == 5:
            raise OSError(28, "No space left on device")
        copied.append(file)
        original(file, target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(Unfinished, match=r"No space left on device.*goes on from there"):
        _convert(source, tmp_path / "out")
    monkeypatch.setattr(shutil, "copyfile", original)
    assert not (tmp_path / "out").exists()
    assert _convert(source, tmp_path / "out").kept == tuple(NAMES)


def test_a_process_that_is_killed_leaves_no_output_and_is_gone_on_from(source, tmp_path, converted, contents):
    script = (
        "import os, shutil, signal, sys\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from test_volume_sets import _convert\n"
        "original, copied = shutil.copyfile, []\n"
        "def kill(file, target):\n"
        "    copied.append(file)\n"
        "    if len(copied) == 6:\n"
        "        open(target, 'wb').write(b'half')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    original(file, target)\n"
        "shutil.copyfile = kill\n"
        "_convert(sys.argv[1], sys.argv[2])\n"
    )
    here = Path(__file__).resolve()
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out"), str(here.parent)]
    assert subprocess.run(command, check=False, cwd=here.parents[2]).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert _convert(source, tmp_path / "out").kept == tuple(NAMES)
    assert converted == NAMES[2:]
    _convert(source, tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_worker_that_is_killed_is_said_with_what_to_do(source, tmp_path):
    def find(files):
        first, second, *others = _find(files).cases
        return FoundVolumes(cases=[first, replace(second, notes={"why": Deadly()}), *others])

    with pytest.raises(Unfinished, match=r"one of 2 processes was ended from outside.*fewer --workers: what is done"):
        convert_volumes(source, tmp_path / "out", about=ABOUT, find=find, settings=VolumeSettings(workers=2))
    assert not (tmp_path / "out").exists()


def test_cases_of_one_name_are_a_misfit(source, tmp_path):
    def find(files):
        found = _find(files)
        return FoundVolumes(cases=[*found.cases, found.cases[0]])

    conversion = convert_volumes(source, tmp_path / "out", about=ABOUT, find=find, settings=VolumeSettings(workers=1))
    label = f"labelsTr/{NAMES[0]}.nii.gz"
    assert [(misfit.case, misfit.reason) for misfit in conversion.misfits] == [
        (NAMES[0], f"{label}, {label}: several cases of one name")
    ]
    assert conversion.kept == tuple(NAMES[1:])


def test_a_link_into_the_void_is_a_misfit(source, tmp_path):
    (source / "imagesTr" / f"{NAMES[0]}.nii.gz").unlink()
    (source / "imagesTr" / f"{NAMES[0]}.nii.gz").symlink_to(tmp_path / "absent.nii.gz")
    conversion = _convert(source, tmp_path / "out")
    assert conversion.misfits[0].reason.startswith(f"imagesTr/{NAMES[0]}.nii.gz: there is no such file")


def test_parts_that_the_publication_names_are_the_split_without_misfits(source, tmp_path, save_volume, label_volume):
    parts = dict(zip(NAMES, ["training", "training", "training", "validation", "test", "test"], strict=True))
    save_volume(source / "labelsTr" / f"{NAMES[1]}.nii.gz", label_volume(0, 5))

    def find(files):
        return FoundVolumes(cases=[replace(case, part=parts[case.name]) for case in _find(files).cases])

    convert = partial(convert_volumes, about=ABOUT, find=find, settings=VolumeSettings(workers=1))
    assert convert(source, tmp_path / "out").split == {
        "training": [NAMES[0], NAMES[2]],
        "validation": [NAMES[3]],
        "test": NAMES[4:],
    }


def test_a_source_without_a_case_is_refused_and_nothing_remains(source, tmp_path):
    with pytest.raises(DataError, match=r"absent\.zip: there is no such file or folder"):
        _convert(tmp_path / "absent.zip", tmp_path / "out")
    shutil.rmtree(source / "labelsTr")
    with pytest.raises(
        DataError, match=r"source: got no sound pair and 6 misfits, for .* an image without a label, and left out 7 MR"
    ):
        _convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_links_into_an_archive_are_refused(source, tmp_path, pack):
    with pytest.raises(SpecError, match="got link for an archive"):
        _convert(pack(source, tmp_path / "a.zip"), tmp_path / "out", link=True)
