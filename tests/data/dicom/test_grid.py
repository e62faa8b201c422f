from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsegdiff.data.dicom.frames import frames_of
from medsegdiff.data.dicom.grid import grid_of, is_repeated
from medsegdiff.errors import DataError
from tests.data.dicom.synthetic import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    SHAPE,
    SPACING,
    enhanced,
    places,
    slices,
    write,
)

ORIENTATIONS = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL, "oblique": OBLIQUE}
HEIGHTS = np.arange(4) * 2.5


def _frames(datasets):
    return [frame for data in datasets for frame in frames_of(data, Path(f"IM_{data.InstanceNumber}"))]


def _grid(positions, **options):
    return grid_of(_frames(slices(np.asarray(positions), **options)))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]], ids=["up", "down", "shuffled"])
@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_voxel_lies_where_the_standard_says(orientation, order):
    positions = places(HEIGHTS, orientation)
    grid = _grid(positions[order], orientation=orientation)
    row, column = orientation
    generator = np.random.default_rng(0)
    for i, j, k in generator.integers(0, [*SHAPE, len(HEIGHTS)], (5, 3)):
        # DICOM PS3.3, equation C.7.6.2.1-1, and LPS to RAS.
        expected = positions[k] + i * SPACING[0] * row + j * SPACING[1] * column
        np.testing.assert_allclose((grid.affine @ [i, j, k, 1])[:3], expected * (-1, -1, 1), atol=1e-8)
    assert [frame.name for frame in grid.frames] == [
        f"instance {order.index(k) + 1} (IM_{order.index(k) + 1})" for k in range(4)
    ]
    assert grid.shape == (*SHAPE, 4)
    np.testing.assert_allclose(grid.spacing, (*SPACING, 2.5))


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_it_is_the_grid_of_simpleitk(tmp_path, orientation):
    datasets = slices(places(HEIGHTS[::-1], orientation), orientation=orientation)
    write(tmp_path, datasets)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    grid = grid_of(_frames(datasets))
    for index in [(0, 0, 0), (4, 3, 3), (1, 2, 2)]:
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose((grid.affine @ [*index, 1])[:3], point, atol=1e-5)


def test_the_affine_is_right_handed_and_at_right_angles_whatever_was_rounded():
    grid = _grid(places(HEIGHTS, OBLIQUE), orientation=np.round(OBLIQUE, 4))
    directions = grid.affine[:3, :3] / grid.spacing
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    assert np.linalg.det(directions) == pytest.approx(1)


def test_frames_of_a_file_have_the_grid_of_slices_in_files():
    positions = places(HEIGHTS, SAGITTAL)[::-1]
    one = grid_of(_frames([enhanced(positions, orientation=SAGITTAL)]))
    many = grid_of(_frames(slices(positions, orientation=SAGITTAL)))
    np.testing.assert_allclose(one.affine, many.affine, atol=1e-9)
    assert [frame.index for frame in one.frames] == [3, 2, 1, 0]
    assert one.frames[0].name == "instance 1 (IM_1), frame 4"


def test_a_single_slice_is_as_thick_as_its_header_says():
    assert _grid(places([0.0])).spacing[2] == 1
    assert _grid(places([0.0]), SliceThickness=3).spacing[2] == 3
    assert _grid(places([0.0]), SliceThickness=3, SpacingBetweenSlices=-4.5).spacing[2] == 4.5


@pytest.mark.parametrize("tilt", [2.0, 14.0, -25.0])
def test_a_tilted_gantry_is_named_with_its_angle(tilt):
    positions = places(np.arange(20) * 5.0)
    positions[:, 1] += np.tan(np.radians(tilt)) * np.arange(20) * 5.0
    shift = abs(np.tan(np.radians(tilt))) * 95
    message = rf"got a gantry tilt of {abs(tilt):.1f}°: from instance 1 .* to instance 20 .* shift by {shift:.2f} mm"
    with pytest.raises(DataError, match=message):
        _grid(positions)


def _shifted():
    positions = places(np.arange(6) * 5.0)
    positions[3, 0] += 4
    return slices(positions)


def _turned(orientation, at=2):
    datasets = slices(places(HEIGHTS))
    datasets[at].ImageOrientationPatient = list(np.ravel(orientation))
    return datasets


def _altered(**attributes):
    datasets = slices(places(HEIGHTS))
    for keyword, value in attributes.items():
        setattr(datasets[2], keyword, value)
    return datasets


def _in_plane(angle):
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return [[cosine, sine, 0], [-sine, cosine, 0]]


def _heights(*heights):
    return lambda: slices(places(heights))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_heights(0, 5, 10, 20), r"got 1 missing slice: 10.00 mm between instance 3 \(IM_3\) and instance 4 "),
        (_heights(0, 5, 15, 20, 40, 45, 50), r"got 4 missing slices: 10.00 mm between instance 2 .* 5.00 mm apart"),
        (_heights(0, 5, 10, 17, 22), r"got uneven slice spacing, from 5.00 mm to 7.00 mm between instance 3"),
        (_heights(0, 5, 10, 15, 17.5), "got uneven slice spacing, from 2.50 mm to 5.00 mm"),
        (_heights(*np.cumsum(1 + np.arange(12) / 100)), "got uneven slice spacing, from 1.01 mm to 1.11 mm"),
        (_heights(0, 5, 5, 10), r"got 4 slices at 3 places: instance 2 .* and instance 3 .* lie at the same"),
        (_heights(0, 0), "got 2 slices at 1 place: instance 1"),
        (_shifted, r"got a slice that lies \d\.\d\d mm beside the others' line \(instance 4 "),
        (lambda: _turned(CORONAL), r"several orientations: instance 3 \(IM_3\) is turned by 90.0° against instance 1"),
        (lambda: _turned(_in_plane(3)), "instance 3 .* is turned by 3.0° against instance 1"),
        (lambda: _turned([[1, 0, 0], [0.1, 1, 0]], at=0), "not at right angles in instance 1"),
        (lambda: _turned([[1, 0, 0], [0, 0, 0]]), "rows and columns that are not at right angles in instance 3"),
        (lambda: _altered(Rows=9), r"got slices of 5×4 pixels \(instance 1 .* and of 5×9 \(instance 3"),
        (lambda: _altered(PixelSpacing=[0.8, 0.6]), r"pixel spacing of 0.5×0.8 mm \(instance 1.* of 0.6×0.8 mm"),
        (lambda: _altered(SamplesPerPixel=3), "got colours in instance 3"),
        (lambda: _altered(PhotometricInterpretation="PALETTE COLOR"), "got colours in instance 3"),
        (lambda: _altered(ImagePositionPatient=None), "got no position in instance 3"),
        (lambda: _altered(ImageOrientationPatient=[1, 0, 0]), "got no orientation in instance 3"),
        (lambda: _altered(PixelSpacing=[0, 0]), "got no pixel spacing in instance 3"),
        (lambda: _altered(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "tiles of one picture .* in instance 3"),
    ],
)
def test_what_is_no_regular_volume_is_refused_with_the_place(make, message):
    with pytest.raises(DataError, match=message) as caught:
        grid_of(_frames(make()))
    assert "allowed is one regular volume; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_rounding_of_headers_is_no_irregularity():
    generator = np.random.default_rng(0)
    positions = places(np.arange(40) * 3.3, OBLIQUE)
    rounded = positions + generator.uniform(-0.05, 0.05, positions.shape)
    grid = _grid(rounded, orientation=np.round(OBLIQUE, 5))
    corner = [*SHAPE, 40, 1]
    exact = _grid(positions, orientation=OBLIQUE)
    assert np.linalg.norm((grid.affine - exact.affine) @ corner) < 0.2


@pytest.mark.parametrize(("fraction", "sound"), [(0.08, True), (0.15, False)])
def test_a_slice_may_lie_a_tenth_of_the_spacing_beside_its_place(fraction, sound):
    heights = np.arange(9) * 5.0
    heights[4] += fraction * 5
    if sound:
        assert _grid(places(heights)).spacing[2] == pytest.approx(5)
    else:
        with pytest.raises(DataError, match="uneven slice spacing"):
            _grid(places(heights))


@pytest.mark.parametrize(("shift", "sound"), [(0.2, True), (0.3, False)])
def test_a_stack_may_lean_by_half_a_pixel(shift, sound):
    positions = places(np.arange(9) * 5.0)
    positions[:, 0] += np.linspace(0, shift, 9)
    if sound:
        np.testing.assert_allclose(_grid(positions).affine[:3, 2], (0, 0, 5))
    else:
        with pytest.raises(DataError, match="gantry tilt"):
            _grid(positions)


def test_time_points_at_places_that_differ_by_rounding_are_repetitions():
    heights = np.tile(np.arange(20) * 5.0, 8) + np.random.default_rng(0).uniform(-1e-3, 1e-3, 160)
    assert is_repeated(_frames(slices(places(heights))))
    assert not is_repeated(_frames(slices(places(np.arange(20) * 0.05))))
