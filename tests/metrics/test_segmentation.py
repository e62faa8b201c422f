"""The metrics of one case: hand-computed masks, invariants, the rule for empty masks, and two other packages."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from medpy.metric import binary as medpy
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.networks.utils import one_hot
from scipy.ndimage import gaussian_filter

from medsegdiff.errors import DataError, SpecError
from medsegdiff.metrics.segmentation import METRICS, METRICS_2D, ClassMetrics, case_metrics

GRIDS = [
    pytest.param((40, 33), (0.7, 1.9), id="2d"),
    pytest.param((22, 18, 15), (0.8, 1.3, 2.5), id="3d"),
]


def measure(prediction, truth, spacing, **options) -> ClassMetrics:
    """The row of a single foreground class."""
    (row,) = case_metrics(prediction, truth, class_names=["organ"], spacing=spacing, **options)
    return row


def values(row: ClassMetrics) -> dict[str, float]:
    return {metric: getattr(row, metric) for metric in METRICS}


def planar(row: ClassMetrics) -> dict[str, float | None]:
    return {metric: getattr(row, metric) for metric in METRICS_2D}


def box(shape, *ranges) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(*r) for r in ranges)] = 1
    return mask


def blobs(shape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping random masks, ragged, of several pieces and touching the edge of the image."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(shape), 1.5, mode="wrap")
    other = field + 0.35 * gaussian_filter(rng.standard_normal(shape), 1.5, mode="wrap")
    return (other > 0.05).astype(np.uint8), (field > 0.07).astype(np.uint8)


class TestHandComputed:
    def test_two_bars_shifted_by_a_column(self):
        truth, prediction = box((8, 8), (2, 4), (2, 6)), box((8, 8), (2, 4), (3, 7))  # 8 voxels each, 6 shared
        row = measure(prediction, truth, (1, 1), nsd_tolerance=0.5)
        # All voxels are surface; 6 of 8 lie on the other mask and 2 one column away, in both directions.
        expected = {"dice": 12 / 16, "hd95": 1, "nsd": 12 / 16, "iou": 6 / 10, "precision": 6 / 8, "recall": 6 / 8}
        assert values(row) == pytest.approx(expected)

    def test_the_centre_of_a_cube(self):
        truth, prediction = box((5, 5, 5), (1, 4), (1, 4), (1, 4)), box((5, 5, 5), (2, 3), (2, 3), (2, 3))
        row = measure(prediction, truth, (1, 2, 3), nsd_tolerance=1)
        # 26 surface voxels of the cube, 8 of them corners at sqrt(1 + 4 + 9); 2 of the 26 within 1 mm of the centre.
        expected = {
            "dice": 2 / 28,
            "hd95": math.sqrt(14),
            "nsd": 3 / 27,
            "iou": 1 / 27,
            "precision": 1,
            "recall": 1 / 27,
        }
        assert values(row) == pytest.approx(expected)

    def test_hd95_is_the_larger_of_two_directed_percentiles(self):
        truth = box((1, 60), (0, 1), (0, 20))
        prediction = box((1, 60), (0, 1), (0, 40))
        # Truth to prediction: all 0. Prediction to truth: 20 zeros and 1..20; position .95 * 39 = 37.05 of the sorted.
        assert measure(prediction, truth, (1, 1)).hd95 == pytest.approx(18.05)

    def test_voxels_and_volumes(self):
        row = measure(box((4, 4, 4), (0, 2), (0, 2), (0, 1)), box((4, 4, 4), (0, 4), (0, 4), (0, 4)), (0.5, 1, 3))
        assert (row.prediction_voxels, row.truth_voxels) == (4, 64)
        assert (row.prediction_volume, row.truth_volume) == pytest.approx((6, 96))

    def test_classes_are_measured_apart_and_in_order(self):
        truth = np.array([[1, 1, 0, 2], [1, 1, 0, 2]])
        prediction = np.array([[1, 1, 0, 0], [1, 1, 2, 2]])
        rows = case_metrics(prediction, truth, class_names=["left", "right"], spacing=(1, 1), case="a")
        assert [(r.case, r.label, r.class_name, r.status) for r in rows] == [
            ("a", 1, "left", "present"),
            ("a", 2, "right", "present"),
        ]
        assert [r.dice for r in rows] == pytest.approx([1, 0.5])

    def test_two_bars_in_a_picture(self):
        truth, prediction = box((8, 8), (2, 4), (2, 6)), box((8, 8), (2, 4), (3, 7))
        row = measure(prediction, truth, (1, 1))
        # A column apart: every boundary pixel has a partner within the smallest tolerance. One region each: the IoU.
        assert planar(row) == {"boundary_f": 1, "weighted_coverage": pytest.approx(6 / 10), "area_ratio": 1}

    def test_metrics_of_pictures_see_the_whole_image(self):
        # A bar along the edge has three sides, the fourth is the image's; the other lies 5 columns to its right.
        truth, prediction = box((4, 40), (0, 4), (0, 10)), box((4, 40), (0, 4), (0, 15))
        assert measure(prediction, truth, (1, 1)).boundary_f == pytest.approx(1 / 5)
        assert measure(prediction[:, ::-1], truth[:, ::-1], (1, 1)).boundary_f == pytest.approx(1 / 5)

    def test_regions_are_those_of_a_class(self):
        truth = np.array([[1, 1, 2, 1, 1]])
        prediction = np.array([[1, 1, 2, 0, 0]])
        rows = case_metrics(prediction, truth, class_names=["a", "b"], spacing=(1, 1))
        assert [row.weighted_coverage for row in rows] == [0.5, 1]

    def test_volumes_have_no_metrics_of_pictures(self):
        row = measure(box((4, 4, 4), (1, 2), (1, 2), (1, 2)), box((4, 4, 4), (1, 2), (1, 2), (1, 3)), (1, 1, 1))
        assert planar(row) == dict.fromkeys(METRICS_2D)

    def test_counts_stay_exact_where_float32_does_not(self):
        truth, prediction = np.zeros((2, 4200, 4200), dtype=np.uint8)  # more than 2**24 voxels between the corners
        truth[0, 0] = truth[-1, -1] = prediction[0, 0] = prediction[-1, -1] = prediction[0, -1] = 1
        assert measure(prediction, truth, (1, 1)).precision == pytest.approx(2 / 3)


class TestInvariants:
    @pytest.mark.parametrize(("shape", "spacing"), GRIDS)
    def test_identical_masks_are_perfect(self, shape, spacing):
        _, truth = blobs(shape, 0)
        row = measure(truth, truth, spacing, nsd_tolerance=0)
        assert values(row) == {"dice": 1, "hd95": 0, "nsd": 1, "iou": 1, "precision": 1, "recall": 1}

    @pytest.mark.parametrize(("shape", "spacing"), GRIDS)
    def test_swapping_the_masks_swaps_only_precision_and_recall(self, shape, spacing):
        a, b = blobs(shape, 1)
        one, other = values(measure(a, b, spacing)), values(measure(b, a, spacing))
        one["precision"], one["recall"] = one["recall"], one["precision"]
        assert one == pytest.approx(other)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_shift_by_one_voxel_costs_the_spacing_of_that_axis(self, axis):
        spacing = (0.6, 1.1, 4.0)
        truth = box((12, 12, 12), (3, 6), (3, 6), (3, 6))
        assert measure(np.roll(truth, 1, axis), truth, spacing).hd95 == pytest.approx(spacing[axis])

    @pytest.mark.parametrize(("shape", "spacing"), GRIDS)
    def test_scaling_the_spacing_scales_distances_only(self, shape, spacing):
        prediction, truth = blobs(shape, 2)
        one = values(measure(prediction, truth, spacing, nsd_tolerance=1))
        tripled = values(measure(prediction, truth, [3 * s for s in spacing], nsd_tolerance=3))
        one["hd95"] *= 3
        assert tripled == pytest.approx(one)

    def test_pixels_count_alike_whatever_their_spacing(self):
        prediction, truth = blobs((30, 30), 2)
        assert planar(measure(prediction, truth, (0.1, 7))) == planar(measure(prediction, truth, (1, 1)))

    @pytest.mark.parametrize(("shape", "spacing"), GRIDS)
    def test_background_around_a_case_changes_nothing(self, shape, spacing):
        prediction, truth = blobs(shape, 3)
        padded = [np.pad(mask, 7) for mask in (prediction, truth)]
        assert values(measure(*padded, spacing)) == values(measure(prediction, truth, spacing))

    @pytest.mark.parametrize(("shape", "spacing"), GRIDS)
    def test_cropping_gives_what_monai_gives_on_the_whole_grid(self, shape, spacing):
        prediction, truth = (np.pad(a + 2 * np.roll(a, 9, 0) * (1 - a), 5) for a in blobs(shape, 4))
        rows = case_metrics(prediction, truth, class_names=["a", "b"], spacing=spacing)
        p, t = (one_hot(torch.as_tensor(a.astype(np.int64))[None, None], 3) for a in (prediction, truth))
        hd95 = compute_hausdorff_distance(p, t, percentile=95, spacing=spacing)[0]
        nsd = compute_surface_dice(p, t, class_thresholds=[1.0, 1.0], spacing=spacing)[0]
        assert [r.hd95 for r in rows] == hd95.tolist()
        assert [r.nsd for r in rows] == nsd.tolist()

    @pytest.mark.parametrize("kind", [np.float32, np.int64, np.uint16, torch.int32, torch.float64, torch.bfloat16])
    def test_the_type_of_the_array_does_not_matter(self, kind):
        arrays = blobs((20, 20), 5)
        if isinstance(kind, torch.dtype):
            converted = [torch.as_tensor(a).to(kind) for a in arrays]
        else:
            converted = [a.astype(kind) for a in arrays]
        assert measure(*converted, (1, 1)) == measure(*arrays, (1, 1))

    def test_measuring_is_silent(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case_metrics(*blobs((12, 10), 6), class_names=["a", "b"], spacing=(1, 1))

    def test_nsd_does_not_hang_on_the_rounding_of_the_spacing(self):
        truth = box((10, 10, 10), (3, 6), (3, 6), (3, 6))
        prediction = np.roll(truth, 1, 0)
        assert measure(prediction, truth, (1.0000002, 1, 1), nsd_tolerance=1).nsd == 1
        assert measure(prediction, truth, (1.001, 1, 1), nsd_tolerance=1).nsd < 1


class TestEmptyMasks:
    EMPTY = np.zeros((3, 4), dtype=np.uint8)
    FULL = box((3, 4), (1, 2), (1, 3))
    DIAGONAL = math.hypot(3 * 2.0, 4 * 5.0)

    def test_a_missed_structure_is_penalised(self):
        row = measure(self.EMPTY, self.FULL, (2, 5))
        assert row.status == "missed"
        assert values(row) == {
            "dice": 0,
            "hd95": pytest.approx(self.DIAGONAL),
            "nsd": 0,
            "iou": 0,
            "precision": 0,
            "recall": 0,
        }
        assert planar(row) == {"boundary_f": 0, "weighted_coverage": 0, "area_ratio": 0}

    def test_a_spurious_structure_is_penalised_and_has_no_recall(self):
        row = measure(self.FULL, self.EMPTY, (2, 5))
        assert row.status == "spurious"
        expected = {"dice": 0, "hd95": self.DIAGONAL, "nsd": 0, "iou": 0, "precision": 0, "recall": math.nan}
        assert values(row) == pytest.approx(expected, nan_ok=True)
        expected = {"boundary_f": 0, "weighted_coverage": math.nan, "area_ratio": 0}
        assert planar(row) == pytest.approx(expected, nan_ok=True)

    def test_an_absent_structure_has_no_metrics(self):
        row = measure(self.EMPTY, self.EMPTY, (2, 5))
        assert (row.status, row.prediction_voxels, row.truth_voxels) == ("absent", 0, 0)
        assert all(math.isnan(value) for value in (values(row) | planar(row)).values())

    def test_no_distance_of_a_present_structure_exceeds_the_penalty(self):
        truth, prediction = box((3, 4), (0, 1), (0, 1)), box((3, 4), (2, 3), (3, 4))
        assert 0 < measure(prediction, truth, (2, 5)).hd95 < self.DIAGONAL


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "spacing"), GRIDS)
class TestOtherPackages:
    def test_overlap_agrees_with_medpy(self, shape, spacing, seed):
        prediction, truth = blobs(shape, seed)
        row = measure(prediction, truth, spacing)
        for ours, theirs in [
            (row.dice, medpy.dc),
            (row.iou, medpy.jc),
            (row.precision, medpy.precision),
            (row.recall, medpy.recall),
        ]:
            assert ours == pytest.approx(theirs(prediction, truth), abs=1e-6)

    def test_distances_agree_with_simpleitk(self, shape, spacing, seed):
        prediction, truth = blobs(shape, seed)
        there, back = (itk_distances(a, b, spacing) for a, b in ((prediction, truth), (truth, prediction)))
        row = measure(prediction, truth, spacing, nsd_tolerance=1.5)
        assert row.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-4)
        assert row.nsd == pytest.approx(np.mean(np.concatenate([there, back]) <= 1.5), abs=1e-6)

    def test_hd95_bounds_that_of_medpy_and_meets_it_where_definitions_do(self, shape, spacing, seed):
        prediction, truth = blobs(shape, seed)
        # medpy pools the distances of both directions before it takes the percentile.
        assert medpy.hd95(prediction, truth, voxelspacing=spacing) <= measure(prediction, truth, spacing).hd95 + 1e-4
        # A shape and its mirror image have the same distances both ways, pooled or not (but for interpolation).
        mirrored = truth[::-1]
        pooled = medpy.hd95(mirrored, truth, voxelspacing=spacing)
        assert measure(mirrored, truth, spacing).hd95 == pytest.approx(pooled, rel=0.02)


def itk_distances(a: np.ndarray, b: np.ndarray, spacing) -> np.ndarray:
    """Distances in mm from the surface of `a` to that of `b`, by SimpleITK."""
    images = [sitk.GetImageFromArray(np.pad(mask, 1)) for mask in (a, b)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    surface_a, surface_b = (sitk.LabelContour(image, fullyConnected=False) for image in images)
    distance = sitk.Abs(sitk.SignedMaurerDistanceMap(surface_b, squaredDistance=False, useImageSpacing=True))
    return sitk.GetArrayFromImage(distance)[sitk.GetArrayFromImage(surface_a) > 0]


class TestBadInput:
    GOOD = np.zeros((4, 5), dtype=np.uint8)

    @pytest.mark.parametrize(
        ("prediction", "truth", "message"),
        [
            (np.zeros((4, 5)), np.zeros((5, 4)), r"case x: .*\(4, 5\).*\(5, 4\).*one grid"),
            (np.zeros((4, 5)), np.full((4, 5), 7), "case x: truth holds the label values 7; allowed are 0 to 2"),
            (np.array([[0, 3], [-1, 9]]), np.zeros((2, 2)), "prediction holds the label values -1, 3, 9"),
            (np.arange(400).reshape(20, 20), np.zeros((20, 20)), "11, 12, …;"),
            (np.full((4, 5), 0.25), np.zeros((4, 5)), "20 values that are no whole numbers, such as 0.25"),
            (np.full((4, 5), np.nan), np.zeros((4, 5)), "no whole numbers, such as nan"),
            (np.full((4, 5), np.inf), np.zeros((4, 5)), "label values inf"),
            (np.zeros((1, 4, 5, 6)), np.zeros((1, 4, 5, 6)), "2-D or 3-D"),
            (np.zeros(4), np.zeros(4), "2-D or 3-D"),
            (np.zeros((4, 0)), np.zeros((4, 0)), r"\(4, 0\).*empty axes"),
            (np.zeros((4, 5), dtype=complex), np.zeros((4, 5)), "dtype complex128"),
        ],
    )
    def test_label_maps(self, prediction, truth, message):
        with pytest.raises(DataError, match=message):
            case_metrics(prediction, truth, class_names=["a", "b"], spacing=(1, 1), case="x")

    @pytest.mark.parametrize("spacing", [(1,), (1, 1, 1), (1, 0), (1, -2), (1, math.nan), (math.inf, 1)])
    def test_spacing(self, spacing):
        with pytest.raises(DataError, match=r"spacing is \[.*\]; allowed are 2 positive numbers in mm"):
            case_metrics(self.GOOD, self.GOOD, class_names=["a"], spacing=spacing)

    @pytest.mark.parametrize("names", [[], ["a", "a"], "ab"])
    def test_class_names(self, names):
        with pytest.raises(SpecError, match="list of different names"):
            case_metrics(self.GOOD, self.GOOD, class_names=names, spacing=(1, 1))

    @pytest.mark.parametrize("tolerance", [-1, math.nan, math.inf])
    def test_tolerance(self, tolerance):
        with pytest.raises(SpecError, match="nsd_tolerance is"):
            case_metrics(self.GOOD, self.GOOD, class_names=["a"], spacing=(1, 1), nsd_tolerance=tolerance)
