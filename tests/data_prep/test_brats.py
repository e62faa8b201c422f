from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest

from data_prep import brats
from data_prep.brats import MODALITIES, main, paper_parts
from data_prep.settings import VolumeSettings
from medsegdiff.data.datalist import msd_datalist
from medsegdiff.data.splits import PARTS

NEW_KINDS = dict(zip(MODALITIES, ("t1n", "t1c", "t2w", "t2f"), strict=True))
# Folder of a case below the source, by year; four cases each.
CASES = {
    2018: ["HGG/Brats18_2013_2_1", "HGG/Brats18_CBICA_AAB_1", "LGG/Brats18_2013_0_1", "LGG/Brats18_TCIA10_109_1"],
    2019: ["HGG/BraTS19_2013_2_1", "HGG/BraTS19_CBICA_AAB_1", "LGG/BraTS19_2013_0_1", "LGG/BraTS19_TCIA10_109_1"],
    2020: [f"MICCAI_BraTS2020_TrainingData/BraTS20_Training_{number:03}" for number in (1, 2, 354, 355)],
    2021: [f"BraTS2021_{number:05}" for number in (0, 2, 495, 1666)],
    2023: [f"ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-{number:05}-000" for number in range(4)],
}
YEARS = tuple(CASES)


@pytest.fixture
def make_source(tmp_path, save_volume, label_volume):
    """The training cases of a year as they are published, with a table beside them."""

    def make(year):
        root = tmp_path / f"brats{year}"
        for index, case in enumerate(CASES[year]):
            for channel, modality in enumerate(MODALITIES):
                _file(save_volume, root, year, case, modality, seed=10 * index + channel)
            labels = label_volume(*((0, 1, 2, 3) if year == 2023 else (0, 1, 2, 4)))
            _file(save_volume, root, year, case, "seg", array=labels)
        if year == 2020:
            folder = root / CASES[year][-1]
            shutil.move(folder / "BraTS20_Training_355_seg.nii", folder / "W39_1998.09.19_Segm.nii")
        (root / "survival_data.csv").write_text("id,age\n")
        return root

    return make


def _path(root, year, case, kind):
    name = case.rpartition("/")[2]
    separator, kind = ("-", NEW_KINDS.get(kind, kind)) if year == 2023 else ("_", kind)
    return root / case / f"{name}{separator}{kind}{'.nii' if year == 2020 else '.nii.gz'}"


def _file(save_volume, root, year, case, kind, **options):
    return save_volume(_path(root, year, case, kind), options.pop("array", None), **options)


def convert(source, output, **options):
    settings = VolumeSettings(workers=1, link=options.pop("link", False))
    return brats.convert(source, output, settings=settings, **options)


def _label(output, case):
    return np.asarray(nibabel.load(output / "labelsTr" / f"{case}.nii.gz").get_fdata())


@pytest.mark.parametrize("year", YEARS)
def test_every_year_gives_four_modalities_and_the_whole_tumour(make_source, tmp_path, year, volumes_back, label_volume):
    source, output = make_source(year), tmp_path / "out"
    conversion = convert(source, output)
    names = sorted(case.rpartition("/")[2] for case in CASES[year])
    assert conversion.kept == tuple(names)
    assert conversion.misfits == ()
    items = volumes_back(output, channels=4, num_classes=2)
    for item in items:
        case = next(case for case in CASES[year] if case.endswith(item["case"]))
        for channel, modality in enumerate(MODALITIES):
            expected = nibabel.load(_path(source, year, case, modality))
            np.testing.assert_array_equal(item["image"][channel], expected.dataobj)
            np.testing.assert_allclose(item["image"].affine, expected.affine, atol=1e-6)
        np.testing.assert_array_equal(item["label"][0], label_volume(0, 1, 1, 1))
    content = json.loads((output / "dataset.json").read_text())
    assert content["modality"] == {"0": "t1", "1": "t1ce", "2": "t2", "3": "flair"}
    assert content["labels"] == {"0": "background", "1": "whole tumor"}
    suffix = ".nii" if year == 2020 else ".nii.gz"
    assert content["training"][0] == {
        "image": [f"./imagesTr/{names[0]}_{modality}{suffix}" for modality in MODALITIES],
        "label": f"./labelsTr/{names[0]}.nii.gz",
    }
    assert {part: [item["case"] for item in msd_datalist(output)[part]] for part in PARTS} == conversion.split


@pytest.mark.parametrize("year", YEARS)
def test_regions_are_nested_in_one_label_map(make_source, tmp_path, year, label_volume):
    output = tmp_path / "out"
    case = convert(make_source(year), output, regions=True).kept[-1]
    # Published: 1 necrosis, 2 edema, 4 (of 2023 3) enhancing tumour.
    np.testing.assert_array_equal(_label(output, case), label_volume(0, 2, 1, 3))
    content = json.loads((output / "dataset.json").read_text())
    assert list(content["labels"].values()) == ["background", "edema", "non-enhancing tumor core", "enhancing tumor"]
    regions = [set(values) for values in content["regions"].values()]
    assert list(content["regions"]) == ["whole tumor", "tumor core", "enhancing tumor"]
    assert regions[0] > regions[1] > regions[2] == {3}
    assert (output / "splits" / "brats_regions_2_1_1.json").exists()


def test_the_published_meaning_of_the_regions():
    whole, core, enhancing = ({1, 2, 4}, {1, 4}, {4})
    for name, published in (("whole tumor", whole), ("tumor core", core), ("enhancing tumor", enhancing)):
        assert {brats.REGION_VALUES[value] for value in published} == set(brats.REGIONS[name])
        renamed = {3 if value == 4 else value for value in published}
        assert {brats.RENAMED_REGION_VALUES[value] for value in renamed} == set(brats.REGIONS[name])


@pytest.mark.parametrize("year", YEARS)
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_archives_of_every_year(make_source, tmp_path, pack, contents, year, name):
    source = make_source(year)
    convert(source, tmp_path / "expected")
    convert(pack(source, tmp_path / name), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_the_tars_that_kaggle_ships_in_a_zip(make_source, tmp_path, pack, contents):
    source = make_source(2021)
    convert(source, tmp_path / "expected")
    shipped, single = tmp_path / "kaggle", tmp_path / "single"
    pack(source, shipped / "BraTS2021_Training_Data.tar")
    shutil.copytree(source / "BraTS2021_00495", single)  # a second time, without a folder of its own
    pack(single, shipped / "BraTS2021_00495.tar")
    for given in (shipped, pack(shipped, tmp_path / "archive.zip")):
        output = tmp_path / f"of_{given.name}"
        assert convert(given, output).misfits == ()
        assert contents(output) == contents(tmp_path / "expected")


def test_links_lead_to_the_images(make_source, tmp_path):
    source, output = make_source(2021), tmp_path / "out"
    convert(source, output, link=True)
    image = output / "imagesTr" / "BraTS2021_00000_flair.nii.gz"
    assert image.is_symlink()
    assert image.samefile(source / "BraTS2021_00000" / "BraTS2021_00000_flair.nii.gz")
    assert not (output / "labelsTr" / "BraTS2021_00000.nii.gz").is_symlink()


def test_the_wrong_name_counts_only_where_the_right_one_is_missing(make_source, tmp_path, save_volume, label_volume):
    source = make_source(2020)
    folder = source / CASES[2020][0]
    save_volume(folder / "W39_1998.09.19_Segm.nii", label_volume(0, 9))
    save_volume(source / "elsewhere" / "other_Segm.nii", label_volume(0, 9))
    assert convert(source, tmp_path / "out").misfits == ()


def test_what_the_challenge_held_back_is_counted(make_source, tmp_path, save_volume):
    source = make_source(2020)
    for number in (1, 2):
        case = f"MICCAI_BraTS2020_ValidationData/BraTS20_Validation_{number:03}"
        for modality in MODALITIES:
            _file(save_volume, source, 2020, case, modality)
    conversion = convert(source, tmp_path / "out")
    assert len(conversion.kept) == 4
    assert conversion.misfits == ()
    assert conversion.left_out == {"without label": 2}


def _without_modality(path, *_):
    path("t2").unlink()
    path("flair").unlink()


def _without_label(path, *_):
    path("seg").unlink()


def _value_three(path, save_volume, label_volume):
    save_volume(path("seg"), label_volume(0, 1, 3, 4))


def _other_grid(path, save_volume, label_volume):
    save_volume(path("flair"), np.random.default_rng(0).random((5, 4, 2), np.float32))


def _other_grid_of_label(path, save_volume, label_volume):
    save_volume(path("seg"), label_volume(0, 1), affine=np.diag([2.0, 2.0, 2.0, 1.0]))


def _not_a_number(path, save_volume, label_volume):
    save_volume(path("t1ce"), np.full((5, 4, 3), np.nan, np.float32))


def _two_versions(path, save_volume, label_volume):
    save_volume(path("t1").parents[1] / "older" / path("t1").name, seed=99)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (_without_modality, ["BraTS2021_00002: a case without t2, flair"]),
        (_without_label, ["BraTS2021_00002: a case without seg"]),
        (
            _value_three,
            ["BraTS2021_00002/BraTS2021_00002_seg.nii.gz: got the label values 3", "allowed are 0, 1, 2, 4"],
        ),
        (
            _other_grid,
            [
                "flair: BraTS2021_00002/BraTS2021_00002_flair.nii.gz: got a grid of shape (5, 4, 2)",
                "where BraTS2021_00002/BraTS2021_00002_t1.nii.gz has (5, 4, 3)",
            ],
        ),
        (_other_grid_of_label, ["BraTS2021_00002/BraTS2021_00002_seg.nii.gz: got a grid of", "_t1.nii.gz has"]),
        (_not_a_number, ["t1ce: BraTS2021_00002/BraTS2021_00002_t1ce.nii.gz: got 60 of 60 voxels that are NaN"]),
        (
            _two_versions,
            ["BraTS2021_00002/BraTS2021_00002_t1.nii.gz, older/BraTS2021_00002_t1.nii.gz: several files of one case"],
        ),
    ],
)
def test_a_misfit_says_why_and_the_others_stay_where_the_paper_has_them(
    make_source, tmp_path, save_volume, label_volume, spoil, parts
):
    source = make_source(2021)
    spoil(lambda kind: _path(source, 2021, "BraTS2021_00002", kind), save_volume, label_volume)
    conversion = convert(source, tmp_path / "out")
    assert [misfit.case for misfit in conversion.misfits] == ["BraTS2021_00002"]
    reason = conversion.misfits[0].reason
    assert reason.startswith(parts[0])
    assert all(part in reason for part in parts)
    assert str(tmp_path) not in reason
    assert conversion.split == {
        "training": ["BraTS2021_00000"],
        "validation": ["BraTS2021_00495"],
        "test": ["BraTS2021_01666"],
    }


def test_a_value_four_of_the_renamed_years_is_none(make_source, tmp_path, save_volume, label_volume):
    source = make_source(2023)
    save_volume(_path(source, 2023, CASES[2023][1], "seg"), label_volume(0, 1, 4))
    (misfit,) = convert(source, tmp_path / "out").misfits
    assert misfit.case == "BraTS-GLI-00001-000"
    assert "got the label values 4 in 20 voxels; allowed are 0, 1, 2, 3" in misfit.reason


def test_of_1251_cases_938_are_for_training_31_for_validation_and_282_the_test_part():
    names = [f"BraTS2021_{index:05}" for index in range(1251)]
    parts = paper_parts(names[::-1])
    assert [name for name in names if parts[name] == "training"] == names[:938]
    assert [name for name in names if parts[name] == "validation"] == names[938:969]
    assert [name for name in names if parts[name] == "test"] == names[969:]


@pytest.mark.parametrize(
    ("number", "sizes"), [(369, (277, 9, 83)), (335, (251, 8, 76)), (3, (1, 1, 1)), (4, (2, 1, 1))]
)
def test_of_other_numbers_the_parts_have_the_shares_of_the_paper(number, sizes):
    parts = paper_parts([f"{index:04}" for index in range(number)])
    assert tuple(list(parts.values()).count(part) for part in PARTS) == sizes


def test_the_command(make_source, tmp_path, capsys):
    arguments = [str(make_source(2019)), "--output", str(tmp_path / "out"), "--regions", "--workers", "1"]
    assert main(arguments) == 0
    assert "out: kept 4 pairs (2 training, 1 validation, 1 test), 0 misfits" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "allowed is a new or empty folder" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.nii").touch()
    assert main([str(tmp_path / "source"), "--output", str(tmp_path / "out"), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert "got no sound pair and 0 misfits; allowed is the layout that --help describes" in error
    assert error.count("\n") == 1


def _cropped(files, folder):
    """Real volumes about what is labelled, under the names of a case; returns what is labelled."""
    folder.mkdir(parents=True)
    truth = nibabel.load(files["seg"])
    labelled = np.asarray(truth.dataobj)
    box = tuple(
        slice(int(places.min()), int(places.max()) + 2)
        for places in (np.flatnonzero(labelled.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    )
    cropped = {file: nibabel.load(file).slicer[box] for file in set(files.values())}
    for kind, file in files.items():
        nibabel.save(cropped[file], folder / f"{folder.name}_{kind}.nii.gz")
    return labelled[box]


@pytest.mark.real_data
def test_a_real_patient_with_four_modalities(data_root, tmp_path, volumes_back):
    real = data_root / "open_ms" / "cross_sectional" / "MNI" / "patient26"
    prefixes = {"t1": "T1_", "t1ce": "T1POST_", "t2": "T2_", "flair": "FLAIR_", "seg": "GOLD_STANDARD_"}
    files = {kind: next(real.glob(f"{prefix}*")) for kind, prefix in prefixes.items()}
    labelled = _cropped(files, tmp_path / "source" / "BraTS2021_00026")
    assert convert(tmp_path / "source", tmp_path / "out").kept == ("BraTS2021_00026",)
    (item,) = volumes_back(tmp_path / "out", channels=4, num_classes=2)
    assert item["image"].shape == (4, *labelled.shape)
    np.testing.assert_array_equal(item["label"][0], labelled)


@pytest.mark.real_data
def test_a_real_glioma_with_the_values_of_2015(data_root, tmp_path):
    real = data_root / "brats2015" / "brats_2013_pat0005_1"
    files = {kind: real / f"{'T1c' if kind == 't1ce' else 'Flair'}_subtrMeanDivStd.nii.gz" for kind in MODALITIES}
    case = tmp_path / "source" / "BraTS2021_00005"
    array = _cropped(files | {"seg": real / "OTMultiClass.nii.gz"}, case)
    # 2015 had 3 for a part of the core, which no later year has before 2023, where it means another.
    assert main([str(case.parent), "--output", str(tmp_path / "out"), "--workers", "1"]) == 2
    affine = nibabel.load(case / f"{case.name}_seg.nii.gz").affine
    later = np.where(array == 3, 1, array).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(later, affine), case / f"{case.name}_seg.nii.gz")
    assert convert(case.parent, tmp_path / "out", regions=True).kept == (case.name,)
    label = _label(tmp_path / "out", case.name)
    for region, values in (("whole tumor", (1, 2, 3, 4)), ("tumor core", (1, 3, 4)), ("enhancing tumor", (4,))):
        np.testing.assert_array_equal(np.isin(label, brats.REGIONS[region]), np.isin(array, values))
