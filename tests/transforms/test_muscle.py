"""The cleaning of muscle masks, by drawn shapes whose result is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.morphology import disk

from medsegdiff.data.reading import read_image
from medsegdiff.errors import DataError, SpecError
from medsegdiff.transforms.muscle import CleanMuscleMask, CleanMuscleMaskd, main_component, matlab_disk

SHAPE = (120, 110)


def draw(*boxes: tuple[int, int, int, int], shape=SHAPE) -> np.ndarray:
    """A mask (X, Y) of boxes (x0, x1, y0, y1)."""
    mask = np.zeros(shape, dtype=bool)
    for x0, x1, y0, y1 in boxes:
        mask[x0:x1, y0:y1] = True
    return mask


def clean(mask: np.ndarray, **options) -> np.ndarray:
    return CleanMuscleMask(**options)(mask[None].astype(np.uint8))[0].astype(bool)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x0, x1, y0, y1) around a mask."""
    x, y = np.nonzero(mask)
    return x.min(), x.max() + 1, y.min(), y.max() + 1


@pytest.mark.parametrize("disks", ["euclidean", "matlab"])
class TestShapes:
    def test_the_outline_moves_out_by_two_pixels(self, disks):
        assert extent(clean(draw((20, 80, 30, 70)), disks=disks)) == (18, 82, 28, 72)

    def test_holes_are_filled_first_or_they_would_grow(self, disks):
        full = draw((20, 80, 30, 70))
        np.testing.assert_array_equal(clean(full & ~draw((45, 55, 45, 55)), disks=disks), clean(full, disks=disks))

    def test_a_hole_that_closes_on_the_way_is_filled_last(self, disks):
        ring = draw((10, 110, 5, 105)) & ~draw((45, 75, 40, 70))
        ring &= ~draw((59, 62, 5, 50))  # a slit of three pixels from the outside into the hole
        assert clean(ring, disks=disks)[60, 55]

    def test_threads_and_specks_vanish(self, disks):
        muscle = draw((20, 80, 30, 70))
        littered = muscle | draw((80, 115, 48, 53)) | draw((2, 14, 2, 14))
        # The tip of a disk reaches into the thread: a bump of two pixels may stay at its root.
        assert (clean(littered, disks=disks) ^ clean(muscle, disks=disks)).sum() <= 10
        assert extent(clean(littered, disks=disks)) == pytest.approx((18, 82, 28, 72), abs=2)

    def test_structures_joined_by_a_bridge_are_taken_apart(self, disks):
        joined = draw((5, 60, 30, 90), (60, 80, 55, 60), (80, 115, 40, 80))
        assert extent(clean(joined, disks=disks)) == pytest.approx((3, 62, 28, 92), abs=2)

    def test_the_edge_of_the_image_takes_nothing_away(self, disks):
        np.testing.assert_array_equal(clean(draw((0, 120, 0, 40)), disks=disks), draw((0, 120, 0, 42)))

    def test_a_full_and_an_empty_mask_stay_so(self, disks):
        assert clean(np.ones(SHAPE, bool), disks=disks).all()
        assert not clean(np.zeros(SHAPE, bool), disks=disks).any()
        assert not clean(draw((3, 9, 3, 9)), disks=disks).any()


class TestDisks:
    @pytest.mark.parametrize(
        ("width", "euclidean", "matlab"), [(14, False, False), (16, False, True), (17, True, True)]
    )
    def test_what_is_too_narrow_vanishes(self, width, euclidean, matlab):
        # Two pixels are added on either side; the opening needs 21 pixels across, MATLAB's octagon 19.
        bar = draw((20, 100, 40, 40 + width))
        assert clean(bar).any() == euclidean
        assert clean(bar, disks="matlab").any() == matlab

    def test_euclidean_disks_agree_with_footprints(self):
        rng = np.random.default_rng(0)
        coarse = rng.random((12, 11)) > 0.35
        mask = np.kron(coarse, np.ones((10, 10), bool))
        expected = binary_dilation(binary_erosion(mask, disk(3), border_value=1), disk(5))
        expected = binary_dilation(binary_erosion(expected, disk(10), border_value=1), disk(10))
        transform = CleanMuscleMask()
        got = transform._dilate(transform._erode(mask, 3), 5)
        got = transform._dilate(transform._erode(got, 10), 10)
        assert 0 < expected.mean() < 1
        np.testing.assert_array_equal(got, expected)

    @pytest.mark.parametrize(("radius", "across"), [(3, 5), (5, 9), (10, 19)])
    def test_matlabs_disks_are_four_lines_dilated_by_each_other(self, radius, across):
        got = matlab_disk(radius)
        assert got.shape == (across, across)
        straight, diagonal = {3: (2, 0), 5: (2, 1), 10: (5, 2)}[radius]
        expected = np.zeros((across, across), bool)
        expected[across // 2, across // 2] = True
        lines = [np.ones((2 * straight + 1, 1)), np.ones((1, 2 * straight + 1))]
        for line in [*lines, np.eye(2 * diagonal + 1), np.eye(2 * diagonal + 1)[::-1]]:
            expected = binary_dilation(expected, line)
        np.testing.assert_array_equal(got, expected)


class TestMainComponent:
    @pytest.mark.parametrize(("upper", "stays"), [(74, "lower"), (75, "upper"), (76, "upper")])
    def test_the_superficial_one_stays_from_75_percent_of_the_largest_on(self, upper, stays):
        above, below = draw((0, upper, 10, 11)), draw((0, 100, 50, 51))
        np.testing.assert_array_equal(main_component(above | below), {"upper": above, "lower": below}[stays])

    def test_the_largest_stays_where_it_is_the_superficial_one(self):
        above, below = draw((0, 100, 10, 11)), draw((0, 90, 50, 51))
        np.testing.assert_array_equal(main_component(above | below), above)

    def test_depth_runs_along_the_second_axis(self):
        left, right = draw((5, 6, 60, 69)), draw((50, 51, 10, 20))  # the right one is larger and nearer to the top
        np.testing.assert_array_equal(main_component(left | right), right)
        np.testing.assert_array_equal(main_component((left | right).T), left.T)

    def test_only_the_two_largest_are_compared(self):
        small, above, below = draw((0, 80, 2, 3)), draw((0, 90, 10, 11)), draw((0, 100, 50, 51))
        np.testing.assert_array_equal(main_component(small | above | below), above)

    def test_the_larger_stays_where_they_are_level(self):
        one, other = draw((0, 10, 20, 28)), draw((50, 60, 20, 30))
        np.testing.assert_array_equal(main_component(one | other), other)

    def test_components_touch_at_corners(self):
        mask = draw((10, 20, 10, 20), (20, 30, 20, 30))
        np.testing.assert_array_equal(main_component(mask | draw((50, 62, 10, 22))), mask)

    def test_a_single_component_and_none(self):
        for mask in (draw((3, 5, 3, 5)), draw()):
            np.testing.assert_array_equal(main_component(mask), mask)


def test_the_top_is_that_of_the_picture(tmp_path):
    rows = np.zeros((120, 100), np.uint8)  # (height, width) as a picture is stored
    rows[10:40, 10:90] = 1
    rows[60:95, 10:90] = 1
    Image.fromarray(rows).save(tmp_path / "mask.png")
    cleaned = CleanMuscleMask()(read_image(tmp_path / "mask.png").array[None])[0]
    assert extent(cleaned) == (8, 92, 8, 42)


class TestTransform:
    @pytest.mark.parametrize("kind", [np.uint8, np.float32, bool, torch.float32, torch.int64, torch.bool])
    def test_type_and_container_stay(self, kind):
        mask = draw((20, 80, 30, 70))[None]
        img = torch.as_tensor(mask).to(kind) if isinstance(kind, torch.dtype) else mask.astype(kind)
        cleaned = CleanMuscleMask()(img)
        assert type(cleaned) is type(img) and cleaned.dtype == img.dtype and cleaned.shape == img.shape
        np.testing.assert_array_equal(np.asarray(cleaned).astype(bool)[0], clean(mask[0]))

    def test_in_a_dictionary_metadata_stay(self):
        mask = MetaTensor(torch.as_tensor(draw((20, 80, 30, 70))[None]).float(), meta={"filename_or_obj": "a.png"})
        item = CleanMuscleMaskd("pred")({"pred": mask, "other": 1})
        assert item["other"] == 1 and item["pred"].meta["filename_or_obj"] == "a.png"
        assert item["pred"].sum() > mask.sum()
        assert CleanMuscleMaskd("pred", allow_missing_keys=True)({}) == {}

    def test_the_disks_reach_the_dictionary_transform(self):
        bar = torch.as_tensor(draw((20, 100, 40, 56))[None])
        assert not CleanMuscleMaskd("pred")({"pred": bar})["pred"].any()
        assert CleanMuscleMaskd("pred", disks="matlab")({"pred": bar})["pred"].any()

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.zeros((2, 9, 9)), r"shape \(2, 9, 9\); give one 2-D mask"),
            (np.zeros((9, 9)), r"shape \(9, 9\)"),
            (np.zeros((1, 9, 9, 9)), r"shape \(1, 9, 9, 9\)"),
            (np.full((1, 9, 9), 0.5), "values from 0.5 to 0.5; give one of 0 and 1"),
            (np.full((1, 9, 9), 255), "values from 255 to 255"),
        ],
    )
    def test_what_is_no_mask_is_refused(self, mask, message):
        with pytest.raises(DataError, match=message):
            CleanMuscleMask()(mask)

    def test_other_disks_are_refused(self):
        with pytest.raises(SpecError, match="disks 'square' do not exist; use one of euclidean, matlab"):
            CleanMuscleMask(disks="square")
