"""Where windows lie and how they are blended: as MONAI does it, and summing to one."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference

from medsegdiff.errors import SpecError
from medsegdiff.inferers.windows import WindowBlend, WindowGrid, check_mode

CASES = [
    ((10,), 4, 0.5),
    ((10, 7), (4, 5), 0.25),
    ((10, 7), (4, 5), (0.0, 0.9)),
    ((9, 3), (4, 5), 0.5),
    ((10, 7, 6), (4, -1, 3), 0.75),
    ((10, 7, 6), (12, 9, 3), (0.1, 0.2, 0.3)),
]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("size", "roi_size", "overlap"), CASES)
def test_windows_lie_where_those_of_monai_do(size, roi_size, overlap):
    seen = []

    def predictor(windows, coordinates):
        seen.extend(tuple((s.start, s.stop) for s in place[2:]) for place in coordinates)
        return windows

    sliding_window_inference(torch.zeros(1, 1, *size), roi_size, 3, predictor, overlap=overlap, with_coord=True)
    grid = WindowGrid(size, roi_size, overlap=overlap)
    assert [tuple((s.start, s.stop) for s in window) for window in grid.windows] == seen
    assert grid.region == tuple(slice(0, n) for n in grid.size)


@pytest.mark.parametrize(("size", "roi_size", "overlap"), CASES)
def test_padding_comes_off_again(size, roi_size, overlap):
    grid, image = WindowGrid(size, roi_size, overlap=overlap), torch.randn(2, 3, *size)
    padded = grid.pad(image)
    assert tuple(padded.shape[2:]) == grid.size
    assert grid.is_padded == (grid.size != size)
    assert (padded is image) != grid.is_padded
    assert torch.equal(grid.crop(padded), image)
    assert padded.abs().sum() == pytest.approx(image.abs().sum().item())


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize(("size", "roi_size", "overlap"), CASES)
def test_blended_windows_of_an_image_are_the_image(mode, size, roi_size, overlap):
    grid = WindowGrid(size, roi_size, overlap=overlap)
    blend, image = WindowBlend(grid, mode, CPU), torch.randn(2, 3, *grid.size)
    blended = torch.zeros_like(image)
    for window in grid.windows:
        blend.add(blended, window, image[(..., *window)])
    torch.testing.assert_close(blended, image)


def test_weights_are_those_of_the_mode():
    grid = WindowGrid((6,), (4,), overlap=0.5)

    def second_window(mode):
        blended = torch.zeros(1, 1, 6)
        WindowBlend(grid, mode, CPU).add(blended, grid.windows[1], torch.ones(1, 1, 4))
        return blended.flatten()

    torch.testing.assert_close(second_window("constant"), torch.tensor([0, 0, 0.5, 0.5, 1, 1]))
    gaussian = second_window("gaussian")
    assert 0 < gaussian[2] < 0.5 < gaussian[3] < 1
    assert gaussian[4] == gaussian[5] == 1


def test_a_voxel_with_one_window_keeps_its_value_exactly():
    grid = WindowGrid((7, 5), (7, 5))
    blended, part = torch.zeros(1, 2, 7, 5), torch.randn(1, 2, 7, 5)
    WindowBlend(grid, "gaussian", CPU).add(blended, grid.windows[0], part)
    assert torch.equal(blended, part)


class TestBox:
    def test_only_windows_that_meet_it_are_kept(self):
        grid = WindowGrid((12, 12), (4, 4), overlap=0, box=(slice(5, 9), slice(0, 1)))
        assert grid.windows == [(slice(4, 8), slice(0, 4)), (slice(8, 12), slice(0, 4))]
        assert grid.region == (slice(4, 12), slice(0, 4))

    def test_it_counts_from_the_image_not_from_the_padding(self):
        grid = WindowGrid((4, 12), (8, 4), overlap=0, box=(slice(3, 4), slice(11, 12)))
        assert grid.windows == [(slice(0, 8), slice(8, 12))]

    def test_an_empty_one_leaves_no_windows(self):
        grid = WindowGrid((8, 8), (4, 4), box=(slice(0, 0), slice(0, 0)))
        assert grid.windows == [] and grid.region is None
        x = torch.ones(1, 2, 8, 8)
        grid.fill_outside(x, torch.tensor([3.0, 4.0]).view(2, 1, 1))
        assert (x[:, 0] == 3).all() and (x[:, 1] == 4).all()

    def test_what_lies_outside_of_the_windows_is_filled(self):
        grid = WindowGrid((12, 12), (4, 4), overlap=0, box=(slice(5, 7), slice(2, 6)))
        x = torch.zeros(2, 1, 12, 12)
        grid.fill_outside(x, torch.full((1, 1, 1), 7.0))
        expected = torch.full((2, 1, 12, 12), 7.0)
        expected[:, :, 4:8, 0:8] = 0
        assert torch.equal(x, expected)

    def test_without_one_nothing_is_filled(self):
        x = torch.zeros(1, 1, 12, 12)
        WindowGrid((12, 12), (5, 4)).fill_outside(x, torch.ones(1, 1, 1))
        assert not x.any()


@pytest.mark.parametrize(
    ("roi_size", "overlap", "message"),
    [
        ((4, 4, 4), 0.5, r"roi_size is \[4, 4, 4\], for 3 axes; the image has 2"),
        (4, (0.5,), r"overlap is \[0.5\], for 1 axes; the image has 2"),
        (4, 1.0, r"overlap is 1.0; give a share of the window, from 0 to less than 1"),
        (4, (0.0, -0.1), r"overlap is -0.1"),
    ],
)
def test_what_does_not_fit_is_refused(roi_size, overlap, message):
    with pytest.raises(SpecError, match=message):
        WindowGrid((10, 10), roi_size, overlap=overlap)


def test_modes_have_the_names_of_monai():
    assert check_mode("Gaussian") == "gaussian"
    with pytest.raises(SpecError, match="no blending 'mean': use one of constant, gaussian"):
        check_mode("mean")
