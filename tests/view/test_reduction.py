from __future__ import annotations

import numpy as np
import pytest

from medsegdiff.view.reduction import reduced, reduction


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((256, 256, 256), (1, 1, 1), (1, 1, 1)),
        ((512, 512, 400), (0.8, 0.8, 1.25), (2, 2, 2)),
        ((512, 512, 90), (0.5, 0.5, 5), (2, 1, 1)),
        ((10**6, 1000, 1), (1, 1, 1), (8, 8, 1)),
    ],
)
def test_the_finest_axis_gives_way_first(shape, spacing, expected):
    assert reduction(shape, spacing, 2**24) == expected


def test_a_case_that_is_small_enough_stays_as_it_is(make_case):
    case = make_case()
    assert reduced(case) == (case, (1, 1, 1))


def test_a_voxel_stands_for_those_in_its_place(make_case):
    case = make_case(shape=(8, 6, 7))  # turned: 7, 8, 6 of 2, 1, 1.5 mm
    smaller, factors = reduced(case, most=100)
    assert factors == (1, 2, 2)
    [image], [before] = smaller.channels.values(), case.channels.values()
    np.testing.assert_allclose(image, before.reshape(7, 4, 2, 3, 2).mean(axis=(2, 4)), rtol=1e-6)
    np.testing.assert_array_equal(smaller.label, case.label[:, 1::2, 1::2])
    np.testing.assert_array_equal(smaller.uncertainty, case.uncertainty[:, 1::2, 1::2])
    # The middle of the voxel is the middle of what it stands for.
    np.testing.assert_allclose(smaller.affine @ [3, 1, 2, 1], case.affine @ [3, 2.5, 4.5, 1])
    # Amounts are those of all voxels.
    assert smaller.classes == case.classes


def test_all_channels_share_what_there_is(make_case, tmp_path):
    case = make_case()
    [image] = case.channels.values()
    both = make_case()
    both.channels["other"] = image
    assert reduced(case, most=120)[1] == (1, 1, 1) and max(reduced(both, most=120)[1]) > 1


def test_whole_numbers_stay_whole(make_case):
    case = make_case()
    case.channels["image"] = np.arange(120).reshape(4, 6, 5).astype(np.int16)
    [image] = reduced(case, most=60)[0].channels.values()
    assert image.dtype == np.int16
