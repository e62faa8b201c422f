from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import UID

from medsegdiff.data.dicom.frames import frames_of
from medsegdiff.data.dicom.volumes import Refusal, Volume, find_volumes
from tests.data.dicom.synthetic import CORONAL, enhanced, places, slices

HEIGHTS = [0.0, 2.0, 4.0]


def _find(*datasets):
    return find_volumes([frame for data in datasets for frame in frames_of(data, Path(f"IM_{data.InstanceNumber}"))])


def _slices(repetitions, **attributes):
    """All heights once for each repetition, the repetitions one after the other."""
    return slices(places(np.tile(HEIGHTS, repetitions)), **attributes)


def _each(*values):
    return [value for value in values for _ in HEIGHTS]


def _instances(volume):
    return [int(frame.name.split()[1]) for frame in volume.grid.frames]


def test_a_series_without_repetition_is_one_volume_whatever_differs():
    volumes = _find(*_slices(1, AcquisitionNumber=[1, 2, 3], EchoTime=["5", "5", "7"]))
    assert [volume.label for volume in volumes] == [""]
    assert _instances(volumes[0]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("attributes", "labels"),
    [
        ({"TemporalPositionIdentifier": _each(1, 10, 2)}, ["time 1", "time 2", "time 10"]),
        ({"EchoNumbers": _each(1, 2, 3)}, ["echo 1", "echo 2", "echo 3"]),
        ({"AcquisitionNumber": _each(5, 6, 7)}, ["acquisition 5", "acquisition 6", "acquisition 7"]),
        ({"DiffusionBValue": _each(0.0, 50.0, 1000.0)}, ["b 0", "b 50", "b 1000"]),
        ({"EchoTime": _each("2.5", "5", "7.5")}, ["TE 2.5", "TE 5", "TE 7.5"]),
        (
            {"ImageType": [["ORIGINAL", "PRIMARY", kind, "ND"] for kind in _each("W", "F", "IN")]},
            ["kind F", "kind IN", "kind W"],
        ),
        (
            {"TriggerTime": _each("0", "1234567.1", "1234567.2")},
            ["trigger 0", "trigger 1234567.1", "trigger 1234567.2"],
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_repetitions_are_split_by_what_tells_them_apart(attributes, labels):
    volumes = _find(*_slices(3, **attributes))
    assert [volume.label for volume in volumes] == labels
    first_instances = sorted(_instances(volume)[0] for volume in volumes)
    assert first_instances == [1, 4, 7]
    assert all(
        _instances(volume) == list(range(_instances(volume)[0], _instances(volume)[0] + 3)) for volume in volumes
    )


def test_time_points_that_alternate_slice_by_slice_are_sorted_into_volumes():
    datasets = slices(places(np.repeat(HEIGHTS, 2)), TemporalPositionIdentifier=[1, 2] * 3)
    assert [_instances(volume) for volume in _find(*datasets)] == [[1, 3, 5], [2, 4, 6]]


def test_echoes_of_several_times_need_both():
    volumes = _find(*_slices(4, EchoNumbers=_each(1, 2, 1, 2), TemporalPositionIdentifier=_each(1, 1, 2, 2)))
    labels = [volume.label for volume in volumes]
    assert labels == ["time 1 echo 1", "time 1 echo 2", "time 2 echo 1", "time 2 echo 2"]
    assert [_instances(volume)[0] for volume in volumes] == [1, 4, 7, 10]


def test_no_more_is_split_than_needed():
    # Acquisition numbers that also differ within an echo would cut its volume into pieces.
    pieces = [*[1] * 2, *[2] * 2] * 2
    datasets = slices(
        places([0, 2, 4, 6] * 2),
        EchoNumbers=[1] * 4 + [2] * 4,
        AcquisitionNumber=pieces,
        EchoTime=["1"] * 4 + ["2"] * 4,
    )
    assert [volume.label for volume in _find(*datasets)] == ["echo 1", "echo 2"]


def test_a_split_that_leaves_regular_volumes_is_preferred():
    # Two overlapping acquisitions: 0 to 4 mm, 4 to 8 mm. Times put no two slices at a place either, but tear both.
    datasets = slices(
        places([0, 2, 4, 4, 6, 8]),
        TemporalPositionIdentifier=[1, 2, 1, 2, 1, 2],
        AcquisitionNumber=[1, 1, 1, 2, 2, 2],
    )
    assert [volume.label for volume in _find(*datasets)] == ["acquisition 1", "acquisition 2"]


def test_repetitions_that_nothing_tells_apart_are_refused():
    (found,) = _find(*_slices(2, AcquisitionNumber=_each(1, 1)))
    assert isinstance(found, Refusal)
    assert found.reason.startswith("got 6 slices at 3 places: instance 1 (IM_1) and instance 4 (IM_4) lie at the same")


def test_a_split_into_single_slices_is_none():
    (found,) = _find(*slices(places([0.0] * 4), AcquisitionNumber=[1, 2, 3, 4]))
    assert isinstance(found, Refusal) and "got 4 slices at 1 place" in found.reason


def test_one_time_point_with_a_gap_does_not_spoil_the_others():
    datasets = slices(places([0, 2, 4, 6] * 2), TemporalPositionIdentifier=[1] * 4 + [2] * 4)
    del datasets[5]
    first, second = _find(*datasets)
    assert isinstance(first, Volume) and first.label == "time 1"
    assert isinstance(second, Refusal) and second.label == "time 2"
    assert second.reason.startswith("got 1 missing slice")


def test_stacks_of_a_file_are_volumes_of_their_own():
    axial, coronal = (
        enhanced(places(HEIGHTS), stack=[1] * 3),
        enhanced(places(HEIGHTS, CORONAL), orientation=CORONAL, stack=[2] * 3),
    )
    groups = [*axial.PerFrameFunctionalGroupsSequence, *coronal.PerFrameFunctionalGroupsSequence]
    axial.PerFrameFunctionalGroupsSequence, axial.NumberOfFrames = groups, 6
    first, second = _find(axial)
    assert (first.label, second.label) == ("stack 1", "stack 2")
    assert [frame.index for frame in first.grid.frames] == [0, 1, 2]
    assert {frame.index for frame in second.grid.frames} == {3, 4, 5}


def test_times_within_a_file_are_split():
    data = enhanced(places(np.tile(HEIGHTS, 2)), time=[1, 1, 1, 2, 2, 2])
    assert [(volume.label, [frame.index for frame in volume.grid.frames]) for volume in _find(data)] == [
        ("time 1", [0, 1, 2]),
        ("time 2", [3, 4, 5]),
    ]


def test_files_of_one_volume_each_are_split():
    first, second = enhanced(places(HEIGHTS)), enhanced(places(HEIGHTS))
    second.InstanceNumber = 2
    assert [volume.label for volume in _find(first, second)] == ["file 1", "file 2"]


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile"),
        # pydicom 2 has no name for high-throughput JPEG 2000.
        ("1.2.840.10008.1.2.4.201", UID("1.2.840.10008.1.2.4.201").name),
        ("1.2.3", "1.2.3"),
    ],
)
def test_pixels_that_nothing_here_decodes_are_refused_by_their_headers(syntax, name):
    datasets = _slices(1)
    datasets[1].file_meta.TransferSyntaxUID = syntax
    (found,) = _find(*datasets)
    assert isinstance(found, Refusal)
    assert found.reason.startswith(f"got pixels stored as {name}")
    assert "in instance 2 (IM_2), for which there is no decoder; allowed are uncompressed" in found.reason
