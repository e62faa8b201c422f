from __future__ import annotations

import shutil

import numpy as np
import pytest

from data_prep.cxr import convert, main, release_splits
from data_prep.settings import Settings
from medsegdiff.data.datalist import msd_datalist
from medsegdiff.data.splits import kfold

MONTGOMERY = [f"MCUCXR_{index:04}_{index % 2}" for index in range(1, 4)]
SHENZHEN = [f"CHNCXR_{index:04}_{index % 2}" for index in range(1, 10)]


@pytest.fixture
def source(tmp_path, picture, mask, save):
    """Both published layouts in one folder: lungs apart in Montgomery, colour files in Shenzhen."""
    root = tmp_path / "source"
    for seed, name in enumerate(MONTGOMERY):
        left, right = mask(), mask()
        left[:, 6:], right[:, :6] = 0, 0
        save(root / "MontgomerySet" / "CXR_png" / f"{name}.png", picture(seed))
        save(root / "MontgomerySet" / "ManualMask" / "leftMask" / f"{name}.png", left)
        save(root / "MontgomerySet" / "ManualMask" / "rightMask" / f"{name}.png", right)
    for seed, name in enumerate(SHENZHEN):
        save(root / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png", picture(seed, channels=3))
        save(root / "mask" / "mask" / f"{name}_mask.png", mask())
    (root / "MontgomerySet" / "CXR_png" / "Thumbs.db").write_text("no data")
    (root / "MontgomerySet" / "ClinicalReadings").mkdir()
    return root


def test_both_sets_become_grey_pairs_with_one_class_of_lungs(source, tmp_path, picture, mask, loaded_back):
    conversion = convert(source, tmp_path / "out")
    assert conversion.kept == tuple(SHENZHEN + MONTGOMERY)
    assert conversion.misfits == conversion.remarks == ()
    items = loaded_back(tmp_path / "out", channels=1)
    for item in items:
        np.testing.assert_array_equal(item["label"][0], mask(value=1).T)
    colours = picture(0, channels=3).astype(float)
    np.testing.assert_array_equal(items[0]["image"][0], np.rint(colours.mean(axis=2)).T)
    np.testing.assert_array_equal(items[-1]["image"][0], picture(len(MONTGOMERY) - 1).T)


def test_the_folds_are_those_of_the_release(source, tmp_path):
    conversion = convert(source, tmp_path / "out")
    tests = [[item["case"] for item in msd_datalist(tmp_path / "out", fold=fold)["test"]] for fold in range(4)]
    assert tests == [MONTGOMERY, SHENZHEN[:3], SHENZHEN[-3:], SHENZHEN[3:-3]]
    assert conversion.split["test"] == MONTGOMERY
    assert sorted(conversion.split["training"] + conversion.split["validation"]) == SHENZHEN
    swapped = msd_datalist(tmp_path / "out", fold=1)
    assert {item["case"] for item in swapped["training"] + swapped["validation"]} == {*SHENZHEN[3:], *MONTGOMERY}


def test_of_the_published_numbers_566_are_for_training_and_138_for_test():
    names = [f"CHNCXR_{index:04}_0" for index in range(566)] + [f"MCUCXR_{index:04}_0" for index in range(138)]
    splits = release_splits(dict.fromkeys(names), Settings())
    assert [len(fold) for fold in splits.folds] == [138, 138, 138, 290]
    assert splits.split["test"] == names[566:]
    assert len(splits.split["training"]) + len(splits.split["validation"]) == 566
    assert splits.folds[1] == names[:138]
    assert splits.folds[2] == names[566 - 138 : 566]


@pytest.mark.parametrize("names", [SHENZHEN, MONTGOMERY + SHENZHEN[:1]])
def test_without_enough_of_both_sets_the_splits_are_seeded(names):
    assert release_splits(dict.fromkeys(names), Settings()).folds == kfold(names, folds=4, seed=0)


def test_a_number_of_folds_makes_seeded_ones():
    names = MONTGOMERY + SHENZHEN
    assert release_splits(dict.fromkeys(names), Settings(folds=3)).folds == kfold(names, folds=3, seed=0)


def test_nothing_remains_between_the_swapped_folds_of_few_cases():
    splits = release_splits(dict.fromkeys(MONTGOMERY + SHENZHEN[:6]), Settings())
    assert splits.folds == [MONTGOMERY, SHENZHEN[:3], SHENZHEN[3:6]]


def test_the_layout_of_kaggle(source, tmp_path, loaded_back):
    kaggle = tmp_path / "kaggle" / "data" / "Lung Segmentation"
    shutil.copytree(source / "ChinaSet_AllFiles" / "CXR_png", kaggle / "CXR_png")
    shutil.copytree(source / "MontgomerySet" / "CXR_png", kaggle / "CXR_png", dirs_exist_ok=True)
    shutil.copytree(source / "mask" / "mask", kaggle / "masks")
    for name in MONTGOMERY:
        shutil.copy(kaggle / "masks" / f"{SHENZHEN[0]}_mask.png", kaggle / "masks" / f"{name}.png")
    (kaggle / "masks" / f"{SHENZHEN[4]}_mask.png").unlink()
    conversion = convert(tmp_path / "kaggle", tmp_path / "out")
    assert conversion.split["test"] == MONTGOMERY
    assert [(misfit.case, misfit.reason.rpartition(": ")[2]) for misfit in conversion.misfits] == [
        (SHENZHEN[4], "an image without a mask")
    ]
    loaded_back(tmp_path / "out", channels=1)


def test_one_lung_alone_is_no_mask(source, tmp_path):
    (source / "MontgomerySet" / "ManualMask" / "rightMask" / f"{MONTGOMERY[0]}.png").unlink()
    (misfit,) = convert(source, tmp_path / "out").misfits
    assert misfit.case == MONTGOMERY[0]
    assert misfit.reason == (
        f"MontgomerySet/ManualMask/leftMask/{MONTGOMERY[0]}.png: the mask of one lung without the other"
    )


def test_the_command_averages_unless_told_not_to(source, tmp_path, capsys):
    assert main([str(source), "--output", str(tmp_path / "a")]) == 0
    assert "kept 12 pairs (8 training, 1 validation, 3 test), 0 misfits" in capsys.readouterr().out
    assert main([str(source), "--output", str(tmp_path / "b"), "--no-average"]) == 0
    assert "kept 3 pairs" in capsys.readouterr().out


@pytest.mark.real_data
def test_real_x_rays_of_both_sets(data_root, tmp_path, loaded_back):
    conversion = convert(data_root / "cxr" / "montgomery", tmp_path / "out", settings=Settings(average=True, size=256))
    assert len(conversion.kept) == 7
    assert conversion.misfits == conversion.remarks == ()
    for item in loaded_back(tmp_path / "out", channels=1):
        assert item["image"].shape == (1, 256, 256)
        assert 0.1 < item["label"].mean() < 0.5
        # Lungs are darker than what surrounds them.
        assert item["image"][item["label"] == 1].mean() < item["image"][item["label"] == 0].mean() + 20
