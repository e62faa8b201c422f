from __future__ import annotations

import re
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medsegdiff.data.dicom.annotation import read_annotation, read_structures
from medsegdiff.data.dicom.folder import find_grid
from medsegdiff.data.dicom.segmentation import Producer, write_segmentation
from medsegdiff.data.dicom.segments import bundle_segments
from medsegdiff.data.dicom.source import read_source
from medsegdiff.errors import DataError
from tests.data.dicom.segmentations import segmentation, structure_set
from tests.data.dicom.synthetic import AXIAL, OBLIQUE, SERIES, SPACING, enhanced, places, slices, write

HEIGHTS = np.arange(4) * 2.5


@pytest.fixture
def grid(tmp_path):
    """Of an oblique series of 5 columns, 4 rows and 4 slices."""
    return find_grid(write(tmp_path / "images", slices(places(HEIGHTS, OBLIQUE), orientation=OBLIQUE)))


@pytest.fixture
def structures_of(grid, tmp_path):
    """The masks that a file gives on that grid, by name."""

    def read(dataset):
        path = write(tmp_path / "labels", [dataset]) / "0.dcm"
        return {structure.name: structure.mask for structure in read_structures(read_annotation(path), grid)}

    return read


def _planes(seed=0):
    return np.random.default_rng(seed).integers(0, 2, (4, 4, 5))


def _on_grid(planes):
    """(slices, rows, columns) as (columns, rows, slices)."""
    return np.moveaxis(planes, (0, 1, 2), (2, 1, 0)) > 0


class TestSegmentation:
    def test_frames_come_to_their_slices_in_any_order(self, structures_of):
        planes, order = _planes(), [2, 0, 3, 1]
        found = structures_of(
            segmentation(planes[order], places(HEIGHTS, OBLIQUE)[order], [1] * 4, orientation=OBLIQUE)
        )
        np.testing.assert_array_equal(found["liver"], _on_grid(planes))

    def test_frames_may_be_turned_over_and_be_few(self, structures_of):
        planes = _planes()
        flipped = np.array([-OBLIQUE[0], OBLIQUE[1]])
        shifted = places(HEIGHTS, OBLIQUE) + 4 * SPACING[0] * OBLIQUE[0]
        found = structures_of(segmentation(planes[1:3, :, ::-1], shifted[1:3], [2, 2], orientation=flipped))
        expected = _on_grid(planes)
        expected[..., [0, 3]] = False
        np.testing.assert_array_equal(found["tumour"], expected)
        assert list(found) == ["tumour"]

    def test_frames_may_cut_the_volume_the_other_way(self, structures_of):
        # Planes of columns and slices, one for each row.
        normal = np.cross(*OBLIQUE)
        planes = np.random.default_rng(1).integers(0, 2, (4, 4, 5))
        positions = places([0.0], OBLIQUE) + np.outer(np.arange(4) * SPACING[1], OBLIQUE[1])
        data = segmentation(
            planes, positions, [1] * 4, orientation=np.array([OBLIQUE[0], normal]), spacing=(SPACING[0], 2.5)
        )
        np.testing.assert_array_equal(structures_of(data)["liver"], np.moveaxis(planes, (0, 1, 2), (1, 2, 0)) > 0)

    def test_segments_may_overlap_here(self, structures_of):
        planes = np.concatenate([_planes(0), _planes(1)])
        positions = np.tile(places(HEIGHTS, OBLIQUE), (2, 1))
        found = structures_of(segmentation(planes, positions, [1] * 4 + [2] * 4, orientation=OBLIQUE))
        np.testing.assert_array_equal(found["liver"], _on_grid(planes[:4]))
        np.testing.assert_array_equal(found["tumour"], _on_grid(planes[4:]))

    def test_of_a_fractional_one_half_counts(self, structures_of):
        planes = np.zeros((4, 4, 5))
        planes[0, 0, :5] = (0, 99, 100, 101, 200)  # of 200
        data = segmentation(planes, places(HEIGHTS, OBLIQUE), [1] * 4, orientation=OBLIQUE, kind="FRACTIONAL")
        assert structures_of(data)["liver"][:, 0, 0].tolist() == [False, False, True, True, True]

    def test_values_of_a_label_map_are_segments(self, structures_of):
        planes = np.random.default_rng(0).integers(0, 3, (4, 4, 5))
        data = segmentation(planes, places(HEIGHTS, OBLIQUE), [0] * 4, orientation=OBLIQUE, kind="LABELMAP")
        found = structures_of(data)
        np.testing.assert_array_equal(found["liver"], _on_grid(planes == 1))
        np.testing.assert_array_equal(found["tumour"], _on_grid(planes == 2))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"shift": 0.4 * SPACING[0] * OBLIQUE[0]}, "got another grid than that of its series, 0.40 voxels off in"),
            ({"shift": 1.25 * np.cross(*OBLIQUE)}, "got another grid than that of its series, 0.50 voxels off in"),
            ({"spacing": (0.6, 0.8)}, "got another grid than that of its series"),
            ({"orientation": AXIAL}, "got another grid than that of its series"),
            ({"shift": 2.5 * np.cross(*OBLIQUE)}, "voxels outside of its series in"),
            ({"numbers": [3] * 4}, "got segment 3 in"),
            ({"empty": True}, "got no structure with an area"),
        ],
    )
    def test_what_is_not_on_the_grid_is_refused(self, structures_of, change, message):
        planes = _planes() * (not change.get("empty", False))
        data = segmentation(
            planes,
            places(HEIGHTS, OBLIQUE) + change.get("shift", 0),
            change.get("numbers", [1] * 4),
            orientation=change.get("orientation", OBLIQUE),
            spacing=change.get("spacing", SPACING),
        )
        with pytest.raises(DataError, match=f"^0.dcm: .*{re.escape(message)}"):
            structures_of(data)

    @pytest.mark.parametrize("keyword", ["SegmentSequence", "PixelData", "Rows", "SharedFunctionalGroupsSequence"])
    def test_damaged_ones_are_refused_without_a_traceback(self, structures_of, keyword):
        data = segmentation(_planes(), places(HEIGHTS, OBLIQUE), [1] * 4, orientation=OBLIQUE)
        delattr(data, keyword)
        with pytest.raises(DataError, match=r"^0\.dcm: "):
            structures_of(data)

    @pytest.mark.parametrize("turned", [OBLIQUE, AXIAL[::-1]])
    @pytest.mark.parametrize("multi_frame", [False, True])
    def test_what_is_written_is_read_again(self, tmp_path, turned, multi_frame):
        positions = places(HEIGHTS, turned)[[2, 0, 3, 1]]
        make = (lambda: [enhanced(positions, orientation=turned)]) if multi_frame else None
        folder = write(tmp_path / "a", make() if make else slices(positions, orientation=turned))
        source = read_source(folder)
        label = np.random.default_rng(0).integers(0, 3, source.grid.shape).astype(np.uint8)
        segments = bundle_segments({}, ["background", "p", "q"])
        producer = Producer(name="n", version="1")
        write_segmentation(label, tmp_path / "o", source=source, segments=segments, producer=producer)
        annotation = read_annotation(tmp_path / "o")
        assert (annotation.names, annotation.series_uids) == (("p", "q"), (SERIES,))
        for number, structure in enumerate(read_structures(annotation, source.grid), start=1):
            np.testing.assert_array_equal(structure.mask, label == number)


class TestContours:
    @staticmethod
    def _contour(corners, index=1):
        """Points in mm of a contour with these corners (column, row) in a slice."""
        corners = np.asarray(corners, float)
        return (
            places([HEIGHTS[index]], OBLIQUE)[0]
            + corners[:, :1] * SPACING[0] * OBLIQUE[0]
            + corners[:, 1:] * SPACING[1] * OBLIQUE[1]
        )

    def _square(self, low, high, index=1):
        return self._contour([(low, low), (high, low), (high, high), (low, high)], index)

    def test_voxels_count_whose_centre_is_inside(self, structures_of):
        corners = [(0.6, -0.4), (4.4, -0.4), (4.4, 1.4), (0.6, 1.4)]
        found = structures_of(structure_set({"organ": [self._contour(corners, 2)]}))
        expected = np.zeros((5, 4, 4), bool)
        expected[1:, :2, 2] = True
        np.testing.assert_array_equal(found["organ"], expected)

    @pytest.mark.parametrize("geometry", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
    def test_a_contour_within_a_contour_is_a_hole_and_a_copy_is_none(self, structures_of, geometry):
        outer, inner = self._square(-0.4, 3.4), self._square(0.6, 1.4)
        found = structures_of(structure_set({"organ": [outer, inner, outer]}, geometry=geometry))
        expected = np.zeros((5, 4, 4), bool)
        expected[:4, :4, 1] = True
        expected[1, 1, 1] = False
        np.testing.assert_array_equal(found["organ"], expected)

    def test_structures_keep_their_names_and_those_without_area_are_left_out(self, tmp_path, structures_of):
        data = structure_set({"a": [self._square(0, 2)], "b": [], "c": [self._square(1, 3, 0)]})
        data.ROIContourSequence[2].ContourSequence.append(data.ROIContourSequence[0].ContourSequence[0])
        assert list(structures_of(data)) == ["a", "c"]
        assert read_annotation(tmp_path / "labels" / "0.dcm").names == ("a", "c")

    def test_points_and_lines_have_no_area(self, structures_of):
        with pytest.raises(DataError, match="got no structure with an area"):
            structures_of(structure_set({"marker": [self._square(0, 2)]}, geometry="OPEN_PLANAR"))

    @pytest.mark.parametrize(
        ("move", "message"),
        [
            ((0, 0, 0.4 * 2.5), "between the slices, from 1.40 to 1.40"),
            ((0, 0, 4 * 2.5), "outside of its series"),
            ((3, 0, 0), "outside of its series"),
        ],
    )
    def test_contours_beside_the_slices_are_refused(self, structures_of, move, message):
        axes = np.vstack([OBLIQUE, np.cross(*OBLIQUE)])
        with pytest.raises(DataError, match=f"^0.dcm: got a contour of 'organ' {message}"):
            structures_of(structure_set({"organ": [self._square(0, 2) + np.asarray(move) @ axes]}))

    def test_contours_across_the_slices_are_refused(self, structures_of):
        tilted = self._square(0, 2) + np.outer([0, 0, 2.5, 2.5], np.cross(*OBLIQUE))
        with pytest.raises(DataError, match=r"between the slices, from 1\.00 to 2\.00"):
            structures_of(structure_set({"organ": [tilted]}))


def test_other_files_are_no_annotations(tmp_path):
    folder = write(tmp_path, slices(places(HEIGHTS)))
    with pytest.raises(DataError, match=r"0\.dcm: got a file of modality MR; allowed are SEG and RTSTRUCT"):
        read_annotation(folder / "0.dcm")


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["CT", "MR_T1", "PET"])
def test_real_contours_give_the_published_masks(data_root, kind):
    folder = data_root / "sts" / "dicom" / "STS_002" / kind
    grid = find_grid(folder / "image")
    (structure,) = read_structures(read_annotation(folder / "mask" / "RS.dcm"), grid)
    truth = nibabel.load(data_root / "sts" / "nifti" / "STS_002" / f"{kind}_mask.nii.gz")
    index = np.argwhere(np.asarray(truth.dataobj) > 0.5) @ truth.affine[:3, :3].T + truth.affine[:3, 3]
    index = np.linalg.solve(grid.affine[:3, :3], (index - grid.affine[:3, 3]).T).T
    np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
    assert structure.name == f"GTV_Mass_{kind}"
    assert sorted(np.rint(index).astype(int).tolist()) == np.argwhere(structure.mask).tolist()


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("images", "file", "names", "volumes"),
    [
        ("23x38x3/image", "23x38x3/seg/label.seg", ["Liver"], ["23x38x3/nrrd/label.nrrd"]),
        ("24x38x3/multiframe", "24x38x3/seg/label.seg", ["Liver"], ["24x38x3/nrrd/label.nrrd"]),
        ("24x38x3/image", "sparse-labelmap-noppv.dcm", ["Liver"], ["sparse_labelmap_noppv_seg.nrrd"]),
        ("ct-3slice", "liver.dcm", ["Liver"], ["liver_seg.nrrd"]),
    ],
)
def test_real_segmentations_are_those_that_they_were_made_from(data_root, images, file, names, volumes):
    root = data_root / "odd" / "dicom_seg_dcmqi" / "data" / "segmentations"
    grid = find_grid(root / images)
    structures = read_structures(read_annotation(root / file), grid)
    assert [structure.name for structure in structures] == names
    for structure, volume in zip(structures, volumes, strict=True):
        truth = sitk.ReadImage(str(root / volume))
        voxels = np.argwhere(sitk.GetArrayFromImage(truth))[:, ::-1].tolist()
        space = np.array([truth.TransformIndexToPhysicalPoint(voxel) for voxel in voxels]) * (-1, -1, 1)
        index = np.linalg.solve(grid.affine[:3, :3], (space - grid.affine[:3, 3]).T).T
        assert sorted(np.rint(index).astype(int).tolist()) == np.argwhere(structure.mask).tolist()


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    ["seg_image_cr_binary", "seg_image_sm_control_labelmap", "seg_image_sm_dots_tiled_full", "seg_image_ct_binary"],
)
def test_real_segmentations_of_something_else_are_refused(data_root, tmp_path, name):
    root = data_root / "odd" / "dicom_highdicom"
    shutil.copy(root / "ct_image.dcm", tmp_path)
    with pytest.raises(DataError, match=f"^{name}.dcm: got (no place in the patient|another grid)"):
        read_structures(read_annotation(root / f"{name}.dcm"), find_grid(tmp_path))
