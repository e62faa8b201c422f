from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import zipfile
from itertools import product

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from data_prep import dicom
from data_prep.dicom import convert, main, survey
from medsegdiff.data.integrity import check_image
from medsegdiff.errors import DataError
from tests.data.dicom.synthetic import OBLIQUE, SERIES, contours, noise, places, slices, write

HEIGHTS = np.arange(4) * 2.5


@pytest.fixture
def study(tmp_path):
    """A scout, an oblique T2 in two folders, a tilted CT, contours, a note and one of macOS's hidden copies."""
    root = tmp_path / "Doe_Jane"
    t2 = _series(2, "MRN-4711 T2", places(HEIGHTS[::-1], OBLIQUE), orientation=OBLIQUE, volume=noise(4))
    write(root / "a", [*_series(1, "Scout"), *t2[:2]], names=[f"IM{i}" for i in range(6)])
    write(root / "b" / "c", [*t2[2:], contours(SeriesNumber=9)])
    tilted = places(HEIGHTS)
    tilted[:, 1] += HEIGHTS
    write(root / "DOE_CT", _series(3, "Thorax", tilted, modality="CT"))
    (root / "notes.txt").write_text("hello")
    (root / "a" / "._IM0").write_bytes(b"resource fork")
    return root


def _series(number, description, positions=None, **attributes):
    positions = places(HEIGHTS) if positions is None else positions
    uid = f"{SERIES}.{number}"
    return slices(positions, SeriesNumber=number, SeriesDescription=description, SeriesInstanceUID=uid, **attributes)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _index(folder):
    return json.loads((folder / "series.json").read_text())


def _pack(folder, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in folder.rglob("*"):
                packed.write(file, file.relative_to(folder.parent))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            tar.add(folder, folder.name)
    return path


def test_a_study_becomes_volumes_and_an_index(study, tmp_path):
    output = tmp_path / "out"
    result = convert([study], output)
    assert _names(output) == ["case_001_s002_t2.nii.gz", "series.json"]
    assert not result.is_whole
    index = _index(output)
    (entry,) = index["converted"]
    assert entry == {
        "file": "case_001_s002_t2.nii.gz",
        "case": "case_001",
        "series_instance_uid": f"{SERIES}.2",
        "series_number": 2,
        "description": "T2",
        "modality": "MR",
        "part": "",
        "slices": 4,
        "shape": [5, 4, 4],
        "spacing": [0.5, 0.8, 2.5],
        "orientation": entry["orientation"],
    }
    assert [(entry["name"], entry["series_number"]) for entry in index["refused"]] == [("case_001_s003_thorax", 3)]
    assert index["refused"][0]["reason"].startswith("got a gantry tilt of 45.0°: from instance 1 (0.dcm)")
    assert [(entry["name"], entry["reason"]) for entry in index["skipped"]] == [
        ("case_001_s001_scout", "a localiser"),
        ("case_001_s009_rtstruct", "contours"),
    ]
    assert (index["copies"], index["not_dicom"]) == (0, 1)


def test_the_volume_has_the_voxels_and_the_place_of_the_slices(study, tmp_path):
    convert([study], tmp_path / "out")
    path = tmp_path / "out" / "case_001_s002_t2.nii.gz"
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), noise(4)[..., ::-1])
    assert image.get_data_dtype() == np.int16
    origin = places([0.0], OBLIQUE)[0] * (-1, -1, 1)
    np.testing.assert_allclose(image.affine[:3, 3], origin, atol=1e-5)
    normal = np.cross(*OBLIQUE) * (-1, -1, 1)
    np.testing.assert_allclose(image.affine[:3, 2], normal * 2.5, atol=1e-5)
    for matrix, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(matrix, image.affine, atol=1e-4)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    # A reader that knows no more than the file puts it at the same place.
    first = np.array(sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint((0, 0, 0)))
    np.testing.assert_allclose(first, places([0.0], OBLIQUE)[0], atol=1e-5)
    assert check_image(path, spatial_dims=3, channels=1).spacing == pytest.approx((0.5, 0.8, 2.5))


@pytest.mark.parametrize("name", ["study.zip", "study.tar", "study.tar.gz"])
def test_an_archive_gives_what_its_folder_gives(study, tmp_path, name):
    convert([study], tmp_path / "a")
    archive = _pack(study, tmp_path / name)
    convert([archive], tmp_path / "b")
    assert _names(tmp_path / "a") == _names(tmp_path / "b")
    for file in _names(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_several_sources_are_one_study_and_nothing_comes_twice(study, tmp_path):
    convert([study / "a", study / "b", study], tmp_path / "out")
    assert _names(tmp_path / "out") == ["case_001_s002_t2.nii.gz", "series.json"]
    assert _index(tmp_path / "out")["copies"] == 0


def test_a_single_file_is_a_source(study, tmp_path):
    convert([study / "a" / "IM4"], tmp_path / "out", series=["*T2"])
    assert nibabel.load(tmp_path / "out" / "case_001_s002_t2.nii.gz").shape == (5, 4, 1)


def test_nothing_written_or_printed_names_the_patient(study, tmp_path, capfd):
    (study / "DOE_CT" / "Jane.dcm").write_bytes(b"broken")
    assert main([str(study), "--output", str(tmp_path / "out")]) == 2
    printed = capfd.readouterr()
    texts = [printed.out + printed.err, (tmp_path / "out" / "series.json").read_text(), *_names(tmp_path / "out")]
    named = re.compile(r"(?<![a-z])(doe|jane)(?![a-z])|4711|1950|2021", re.IGNORECASE)
    assert not any(named.search(text) for text in texts)


def test_identities_are_kept_when_asked_for(study, tmp_path):
    convert([study], tmp_path / "out", keep_ids=True)
    assert _names(tmp_path / "out")[0] == "MRN-4711_case_001_s002_mrn-4711_t2.nii.gz"
    (entry,) = _index(tmp_path / "out")["converted"]
    assert (entry["patient_id"], entry["description"]) == ("MRN-4711", "MRN-4711 T2")


def test_the_command_says_what_came_of_each_series(study, tmp_path, capsys):
    assert main([str(study), "--output", str(tmp_path / "out")]) == 2
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'out'}: converted 1 volumes, refused 1, skipped 2, see series.json"
    assert others[0].startswith("  refused case_001_s003_thorax: got a gantry tilt of 45.0°")
    assert others[1:] == ["  skipped case_001_s001_scout: a localiser", "  skipped case_001_s009_rtstruct: contours"]


def test_the_code_is_0_where_all_that_was_asked_for_is_converted(study, tmp_path):
    assert main([str(study), "--output", str(tmp_path / "a"), "--modality", "MR"]) == 0
    assert main([str(study), "--output", str(tmp_path / "b"), "--series", "*t2", "--series", "scout"]) == 0
    assert _names(tmp_path / "b") == ["case_001_s001_scout.nii.gz", "case_001_s002_t2.nii.gz", "series.json"]
    assert main([str(study), "--output", str(tmp_path / "c"), "--series", f"{SERIES}.3"]) == 2
    assert _names(tmp_path / "c") == ["series.json"]


def test_the_list_says_what_would_come_and_writes_nothing(study, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main([str(study), "--list"]) == 0
    scout, t2, thorax, rtstruct, total = capsys.readouterr().out.splitlines()
    assert scout.endswith("4 slices  skipped: a localiser")
    assert t2 == f"case_001_s002_t2  MR  'T2'  {SERIES}.2  4 slices  5×4×4 voxels of 0.5×0.8×2.5 mm"
    assert "refused: got a gantry tilt" in thorax
    assert rtstruct.endswith("skipped: contours")
    assert total == "1 volumes to convert, 1 to refuse, 2 to skip; 0 copies, 1 files that are not DICOM"
    assert sorted(tmp_path.rglob("*")) == before


def test_echoes_become_files_of_their_own(tmp_path):
    volume = noise(8)
    datasets = slices(places(np.tile(HEIGHTS, 2)), volume=volume, EchoNumbers=[1] * 4 + [2] * 4)
    write(tmp_path / "study", datasets)
    convert([tmp_path / "study"], tmp_path / "out")
    assert [entry["part"] for entry in _index(tmp_path / "out")["converted"]] == ["echo 1", "echo 2"]
    second = nibabel.load(tmp_path / "out" / "case_001_s004_mr_echo_2.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(second.dataobj), volume[..., 4:])


def test_fractions_are_stored_as_fractions(tmp_path):
    write(tmp_path / "study", _series(2, "PET", modality="PT", RescaleSlope=["0.5", "1", "2", "3.25"]))
    convert([tmp_path / "study"], tmp_path / "out")
    image = nibabel.load(tmp_path / "out" / "case_001_s002_pet.nii.gz")
    assert image.get_data_dtype() == np.float32
    np.testing.assert_allclose(image.get_fdata(), noise(4) * [0.5, 1, 2, 3.25])


def test_damaged_files_are_refused_and_the_rest_converted(study, tmp_path):
    (study / "b" / "broken.dcm").write_bytes(b"broken")
    pixels = study / "b" / "c" / "0.dcm"
    pixels.write_bytes(pixels.read_bytes()[:-10])
    write(study / "d", _series(7, "T1"))
    convert([study], tmp_path / "out", modalities=["MR"])
    assert _names(tmp_path / "out") == ["case_001_s007_t1.nii.gz", "series.json"]
    t2, broken = _index(tmp_path / "out")["refused"]
    assert t2["reason"].startswith("got pixels that cannot be decoded in instance 3 (0.dcm)")
    assert broken["reason"].startswith("b/broken.dcm: got a DICOM file whose header cannot be used")


def test_a_link_upwards_ends(study, tmp_path):
    (study / "b" / "again").symlink_to(study)
    assert len(survey([study]).converted) == 1


def _no_dicom(study, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    return tmp_path / "empty"


def _only_a_scout(study, tmp_path):
    return write(tmp_path / "scout", _series(1, "Scout"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda study, tmp_path: tmp_path / "absent", "absent: there is no such file or folder"),
        (lambda study, tmp_path: study / "notes.txt", "notes.txt: got a file that is no archive; allowed are tar"),
        (_no_dicom, "empty: got 1 files and no DICOM among them"),
        (_only_a_scout, "scout: got 1 series and none to convert (case_001_s001_scout: a localiser); allowed is one"),
    ],
)
def test_a_source_that_is_wrong_is_one_line_and_code_2(study, tmp_path, capsys, spoil, message):
    output = tmp_path / "out"
    assert main([str(spoil(study, tmp_path)), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_an_output_that_holds_files_is_left_alone(study, tmp_path):
    with pytest.raises(DataError, match="allowed is a new or empty folder"):
        convert([study], study)


def test_a_volume_is_there_whole_or_not_at_all(study, tmp_path, monkeypatch):
    write(study / "d", _series(7, "T1"))
    original, output = nibabel.Nifti1Image.to_stream, tmp_path / "out"

    def fail(self, stream, **options):
        if (output / "case_001_s002_t2.nii.gz").exists():
            stream.write(b"half")
            raise OSError(28, "No space left on device")
        original(self, stream, **options)

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", fail)
    with pytest.raises(DataError, match=r"s007_t1\.nii\.gz cannot be written .*No space left on device"):
        convert([study], output, modalities=["MR"])
    assert _names(output) == ["case_001_s002_t2.nii.gz", "series.json"]
    assert len(_index(output)["converted"]) == 1


def test_what_was_done_until_an_interruption_is_in_the_index(study, tmp_path, monkeypatch):
    write(study / "d", _series(7, "T1"))
    original = dicom.read_voxels

    def interrupted(grid):
        if (tmp_path / "out" / "case_001_s002_t2.nii.gz").exists():
            raise KeyboardInterrupt
        return original(grid)

    monkeypatch.setattr(dicom, "read_voxels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert([study], tmp_path / "out")
    assert [entry["file"] for entry in _index(tmp_path / "out")["converted"]] == ["case_001_s002_t2.nii.gz"]


def _simpleitk(folder):
    """Voxels (columns, rows, slices) and affine in RAS as SimpleITK reads a folder."""
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    image = image[..., 0] if image.GetDimension() == 4 else image
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ affine


def _converted(folder, output):
    study = convert([folder], output)
    (item,) = study.converted
    (path,) = (path for path in output.rglob(f"{item.name}.nii.gz") if path.parent.name != "labelsTr")
    return nibabel.load(path)


GOOD = (
    *(f"odd/dicom2nifti/{name}" for name in ("ge/anatomical/001", "generic/anatomical/001", "generic/compressed_rle")),
    *(f"odd/dicom2nifti/{name}" for name in ("generic/anatomical/002_non_isotropic", "generic/compressed_j2k")),
    *("odd/dicom2nifti/siemens_multiframe/anatomical/001", "hippocampus/dicom_study1"),
    "prostatex/dicom/07-07-2011/4.000000-t2tsetra-00702",
    *(f"sts/dicom/STS_002/{name}/image" for name in ("CT", "PET", "MR_T1")),
)


@pytest.mark.real_data
@pytest.mark.parametrize("folder", GOOD)
def test_a_real_series_is_what_simpleitk_reads(data_root, tmp_path, folder):
    (leaf,) = {os.path.dirname(path) for path in map(str, (data_root / folder).rglob("*")) if os.path.isfile(path)}
    image = _converted(data_root / folder, tmp_path / "out")
    voxels, affine = _simpleitk(leaf)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_allclose(np.asanyarray(image.dataobj), voxels, rtol=1e-6, atol=1e-6)


@pytest.mark.real_data
def test_real_jpeg_2000_without_series_uid_is_what_simpleitk_reads(data_root, tmp_path):
    (tmp_path / "study").mkdir()
    for path in sorted((data_root / "totalsegmentator" / "example_ct_dicom").iterdir())[:3]:
        (tmp_path / "study" / path.name).symlink_to(path)
    image = _converted(tmp_path / "study", tmp_path / "out")
    voxels, affine = _simpleitk(tmp_path / "study")
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), voxels)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "given"),
    [
        ("prostatex/dicom/07-07-2011/4.000000-t2tsetra-00702", "prostatex/Prostatex_0000.nii.gz"),
        ("sts/dicom/STS_002/CT", "sts/nifti/STS_002/CT_image.nii.gz"),
        ("sts/dicom/STS_002/PET", "sts/nifti/STS_002/PET_image.nii.gz"),
        ("sts/dicom/STS_002/MR_T1", "sts/nifti/STS_002/MR_T1_image.nii.gz"),
    ],
)
def test_a_real_series_is_the_nifti_published_with_it(data_root, tmp_path, folder, given):
    ours = nibabel.as_closest_canonical(_converted(data_root / folder, tmp_path / "out"))
    theirs = nibabel.as_closest_canonical(nibabel.load(data_root / given))
    assert ours.shape == theirs.shape
    corners = np.array([[*corner, 1] for corner in product(*((0, size) for size in ours.shape))])
    moved = np.linalg.norm(corners @ (ours.affine - theirs.affine).T, axis=1)
    assert moved.max() < 0.1  # mm; one of them was rounded to 0.06
    np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), rtol=1e-4, atol=1e-3)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gantrytilting", r"got a gantry tilt of 14\.0°"),
        ("notavolume", "got 4 slices at 1 place: instance 23"),
        ("sliceincrement", r"got 1 missing slice: 10\.00 mm between instance 9 .* and instance 10 "),
        ("sliceorientation", r"slices of several orientations: .* is turned by \d+\.\d° against instance 1"),
    ],
)
def test_real_series_that_are_no_volume_are_refused_by_name(data_root, tmp_path, capsys, kind, message):
    assert main([str(data_root / "odd" / "dicom2nifti" / "failing" / kind), "--output", str(tmp_path / "out")]) == 2
    (refused,) = _index(tmp_path / "out")["refused"]
    assert re.search(message, refused["reason"])
    assert "\n" not in refused["reason"]


@pytest.mark.real_data
def test_a_real_study_with_contours_gives_pairs(data_root, tmp_path):
    study = convert([data_root / "sts" / "dicom"], tmp_path / "out", labels=["tumour=GTV*"])
    assert study.is_whole and len(study.converted) == 3 and not study.skipped
    assert [item.header.modality for item in study.items if item.grid is None] == ["RTSTRUCT"] * 3
    names = _names(tmp_path / "out" / "imagesTr")
    assert _names(tmp_path / "out" / "labelsTr") == names and len(names) == 3
    assert not any("sts_002" in name.lower() for name in names)
    voxels = {entry["modality"]: entry["voxels"] for entry in _index(tmp_path / "out")["converted"]}
    assert voxels == {"CT": {"tumour": 17090}, "MR": {"tumour": 17090}, "PT": {"tumour": 555}}


@pytest.mark.real_data
def test_slices_left_out_of_a_real_series_are_noticed(data_root, tmp_path):
    shutil.copytree(data_root / "hippocampus" / "dicom_study1", tmp_path / "study")
    (tmp_path / "study" / "17.dcm").unlink()
    (refused,) = survey([tmp_path / "study"]).refused
    assert refused.refused.startswith("got 1 missing slice: 2.00 mm between")
