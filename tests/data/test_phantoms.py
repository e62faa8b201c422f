"""Phantoms have their task's channels, classes and geometry, and no threshold solves them."""

from __future__ import annotations

import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medsegdiff.data.phantoms import PhantomSpec, make_phantom, phantom_folder, write_phantoms
from medsegdiff.errors import DataError, SpecError

HIPPOCAMPUS = PhantomSpec(
    shape=(36, 50, 35), spacing=(1, 1, 1), num_classes=3, name="hippocampus", class_names=("anterior", "posterior")
)
ONE_CLASS_2D = PhantomSpec(shape=(64, 64), spacing=(0.3, 0.4), num_classes=2, in_channels=3, name="nuclei")
MANY_CLASSES = PhantomSpec(shape=(40, 40, 24), spacing=(1.5, 1.5, 5), num_classes=6, in_channels=2, name="organs")
CONTRASTED = replace(HIPPOCAMPUS, name="contrasted", contrast=0.22)
SMALL = PhantomSpec(shape=(20, 24, 16), spacing=(1, 1.5, 2), num_classes=3, name="small")
SPECS = [HIPPOCAMPUS, ONE_CLASS_2D, MANY_CLASSES, CONTRASTED]


def best_interval_dice(channel: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """The highest Dice that any interval of intensities reaches, chosen on the truth itself."""
    edges = np.quantile(channel, np.linspace(0, 1, 65))
    edges[-1] += 1
    voxels = np.concatenate([[0], np.histogram(channel, edges)[0].cumsum()])
    hits = np.concatenate([[0], np.histogram(channel[truth], edges)[0].cumsum()])
    chosen = voxels[None, :] - voxels[:, None]
    found = hits[None, :] - hits[:, None]
    return float(np.max(np.where(chosen > 0, 2 * found / (chosen.clip(0) + truth.sum()), 0)))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
class TestMakePhantom:
    def test_has_the_channels_shape_and_classes_of_its_specification(self, spec: PhantomSpec) -> None:
        image, label = make_phantom(spec, 3)
        assert image.shape == (spec.in_channels, *spec.shape)
        assert label.shape == spec.shape
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert np.isfinite(image).all()
        assert set(np.unique(label)) == set(range(spec.num_classes))

    def test_depends_on_the_seed_and_on_nothing_else(self, spec: PhantomSpec) -> None:
        image, label = make_phantom(spec, 3)
        again = make_phantom(replace(spec, name="other"), 3)
        other = make_phantom(spec, 4)
        np.testing.assert_array_equal(image, again[0])
        np.testing.assert_array_equal(label, again[1])
        assert not np.array_equal(label, other[1])

    def test_no_interval_of_intensities_finds_a_class(self, spec: PhantomSpec) -> None:
        for seed in range(4):
            image, label = make_phantom(spec, seed)
            scores = [
                max(best_interval_dice(channel, label == number) for channel in image)
                for number in range(1, spec.num_classes)
            ]
            assert np.mean(scores) < 0.5

    def test_the_usual_place_alone_does_not_find_the_foreground(self, spec: PhantomSpec) -> None:
        labels = np.stack([make_phantom(spec, seed)[1] for seed in range(12)])
        overlaps = []
        for number in range(1, spec.num_classes):
            usual = (labels == number).mean(0) >= 0.5
            overlaps += [
                2 * (usual & (label == number)).sum() / (usual.sum() + (label == number).sum()) for label in labels
            ]
        assert np.mean(overlaps) < 0.7

    def test_contrast_changes_the_bodies_alone(self, spec: PhantomSpec) -> None:
        flat, label = make_phantom(replace(spec, contrast=0.0), 3)
        bright, same = make_phantom(replace(spec, contrast=0.3), 3)
        np.testing.assert_array_equal(label, same)
        np.testing.assert_array_equal(flat[:, label == 0], bright[:, label == 0])
        # The first channel has the contrast of T1 weighting: bodies become brighter in it everywhere.
        assert (bright[0][label > 0] > flat[0][label > 0]).all()

    def test_a_range_is_filled_by_every_channel(self, spec: PhantomSpec) -> None:
        image, _ = make_phantom(replace(spec, intensity_range=(0, 255)), 3)
        free, _ = make_phantom(spec, 3)
        for channel, of_its_own in zip(image, free, strict=True):
            assert channel.dtype == np.float32
            assert (channel.min(), channel.max()) == (0, 255)
            assert np.corrcoef(channel.ravel(), of_its_own.ravel())[0, 1] > 0.9999

    def test_scale_and_offset_of_the_intensity_differ_between_images(self, spec: PhantomSpec) -> None:
        spreads = [make_phantom(spec, seed)[0][0].std() for seed in range(6)]
        assert max(spreads) > 1.5 * min(spreads)


def test_the_two_classes_of_a_body_touch() -> None:
    _, label = make_phantom(HIPPOCAMPUS, 0)
    neighbours = (label[:, 1:] == 1) & (label[:, :-1] == 2)
    assert neighbours.sum() > 10


class TestWritePhantoms:
    @pytest.mark.parametrize("spec", [SMALL, ONE_CLASS_2D, MANY_CLASSES], ids=lambda spec: spec.name)
    def test_writes_a_folder_in_the_layout_of_the_decathlon(self, spec: PhantomSpec, tmp_path: Path) -> None:
        folder = write_phantoms(spec, tmp_path / "new" / "phantoms", cases=2)
        description = json.loads((folder / "dataset.json").read_text())
        assert [int(number) for number in description["labels"]] == list(range(spec.num_classes))
        assert description["numTraining"] == len(description["training"]) == 2
        for pair in description["training"]:
            image, label = (nib.Nifti1Image.from_filename(folder / pair[key]) for key in ("image", "label"))
            assert label.ndim == 3
            assert image.shape[:3] == label.shape
            assert image.shape[3:] == ((spec.in_channels,) if spec.in_channels > 1 else ())
            np.testing.assert_array_equal(image.affine, label.affine)
            assert image.header.get_zooms()[: len(spec.shape)] == pytest.approx(spec.spacing)
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
            assert set(np.unique(np.asarray(label.dataobj))) == set(range(spec.num_classes))

    def test_shapes_vary_by_at_most_15_percent(self, tmp_path: Path) -> None:
        folder = write_phantoms(SMALL, tmp_path / "phantoms", cases=6)
        shapes = np.array(
            [nib.Nifti1Image.from_filename(path).shape for path in sorted((folder / "labelsTr").iterdir())]
        )
        assert len(np.unique(shapes, axis=0)) > 3
        assert (np.abs(shapes / np.array(SMALL.shape) - 1) <= 0.15 + 0.5 / 16).all()

    def test_class_names_are_those_of_the_specification(self, tmp_path: Path) -> None:
        folder = write_phantoms(replace(SMALL, class_names=("head", "body")), tmp_path / "phantoms", cases=1)
        labels = json.loads((folder / "dataset.json").read_text())["labels"]
        assert labels == {"0": "background", "1": "head", "2": "body"}

    def test_a_case_does_not_depend_on_the_number_of_cases(self, tmp_path: Path) -> None:
        few = write_phantoms(SMALL, tmp_path / "few", cases=1)
        many = write_phantoms(SMALL, tmp_path / "many", cases=2)
        first, same = (
            nib.Nifti1Image.from_filename(folder / "imagesTr" / "small_000.nii.gz").get_fdata()
            for folder in (few, many)
        )
        np.testing.assert_array_equal(first, same)

    def test_a_complete_folder_is_used_as_it_is(self, tmp_path: Path) -> None:
        folder = write_phantoms(SMALL, tmp_path / "phantoms", cases=1)
        before = (folder / "imagesTr" / "small_000.nii.gz").stat()
        assert write_phantoms(SMALL, folder, cases=1) == folder
        after = (folder / "imagesTr" / "small_000.nii.gz").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_another_folder_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "dataset.json").write_text("{}")
        with pytest.raises(DataError, match="no complete folder of these phantoms"):
            write_phantoms(SMALL, tmp_path, cases=1)
        assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]

    def test_a_failure_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            msg = "no space left on device"
            raise OSError(msg)

        monkeypatch.setattr(nib, "save", full)
        with pytest.raises(DataError, match="no space left"):
            write_phantoms(SMALL, tmp_path / "phantoms", cases=1)
        assert not list(tmp_path.iterdir())

    def test_several_may_ask_for_the_same_folder_at_once(self, tmp_path: Path) -> None:
        start = threading.Barrier(3)

        def racer(_: int) -> Path:
            start.wait()
            return write_phantoms(SMALL, tmp_path / "phantoms", cases=3)

        with ThreadPoolExecutor(3) as pool:
            assert set(pool.map(racer, range(3))) == {tmp_path / "phantoms"}
        assert [path.name for path in tmp_path.iterdir()] == ["phantoms"]


class TestPhantomFolder:
    @pytest.fixture(autouse=True)
    def _own_temporary_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def test_is_keyed_by_specification_cases_and_seed(self) -> None:
        folder = phantom_folder(SMALL, cases=1)
        assert folder == phantom_folder(SMALL, cases=1)
        others = [
            phantom_folder(SMALL, cases=1, seed=1),
            phantom_folder(SMALL, cases=2),
            phantom_folder(replace(SMALL, spacing=(1, 1, 1)), cases=1),
        ]
        assert len({folder, *others}) == 4

    def test_is_written_again_when_files_were_removed(self) -> None:
        folder = phantom_folder(SMALL, cases=1)
        (folder / "labelsTr" / "small_000.nii.gz").unlink()
        assert (phantom_folder(SMALL, cases=1) / "labelsTr" / "small_000.nii.gz").is_file()
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]


class TestBadInput:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"shape": (64,)}, "two or three sides"),
            ({"shape": (64, 64, 8)}, "at least 16"),
            ({"spacing": (1, 1)}, "positive number of mm"),
            ({"spacing": (1, 1, 0)}, "positive number of mm"),
            ({"num_classes": 1}, "at least 2 classes"),
            ({"in_channels": 0}, "at least 2 classes"),
            ({"class_names": ("tumour",)}, "give 2"),
            ({"name": "../elsewhere"}, "choose another"),
            ({"contrast": 0.6}, "-0.5 to 0.5 is allowed"),
            ({"intensity_range": (255, 0)}, "must be smaller"),
        ],
    )
    def test_a_specification_that_does_not_fit_is_refused(self, wrong: dict[str, object], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            replace(SMALL, **wrong)  # type: ignore[arg-type]

    def test_no_cases(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="at least 1"):
            write_phantoms(SMALL, tmp_path / "phantoms", cases=0)
