from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medsegdiff.view import key_slices as module
from medsegdiff.view.key_slices import fullest_slice, key_slices


def _open(png):
    return Image.open(io.BytesIO(png))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that become pictures."""
    figures, save = [], module.save_png

    def note(figure, *args, **options):
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(module, "save_png", note)
    return figures


def _texts(ax):
    return {text.get_text(): text.get_position() for text in ax.texts}


def test_the_slice_with_most_foreground_is_chosen_and_without_any_the_middle_one():
    label = np.zeros((5, 4, 3), np.uint8)
    assert [fullest_slice(label, axis) for axis in range(3)] == [2, 2, 1]
    label[1, :2, 0] = label[4, 3, 0] = 2
    assert [fullest_slice(label, axis) for axis in range(3)] == [1, 0, 0]


def test_it_is_a_small_png_that_says_what_it_is_for(make_case, drawn):
    png = key_slices(make_case("p_1"), description="research use only")
    picture = _open(png)
    assert picture.format == "PNG" and picture.text == {"Description": "research use only"} and len(png) < 100_000
    [figure] = drawn
    assert figure.get_suptitle() == "p_1"
    words = figure.get_supxlabel()
    assert "Research use only; not a medical device." in words and "model: organs 1.0" in words


def test_planes_are_shown_as_radiologists_look_in_true_proportions(make_case, drawn):
    case = make_case()
    key_slices(case, description="")
    axes = np.array(drawn[0].axes).reshape(3, 3)  # image, segmentation and uncertainty; axial, coronal and sagittal
    marks = [["A", "L", "P", "R"], ["I", "L", "R", "S"], ["A", "I", "P", "S"]]
    for column, expected in enumerate(marks):
        assert sorted(_texts(axes[0, column])) == expected
    assert _texts(axes[0, 0])["R"][0] < 0.5 < _texts(axes[0, 0])["L"][0]
    assert _texts(axes[0, 0])["P"][1] < 0.5 < _texts(axes[0, 0])["A"][1]
    assert _texts(axes[0, 2])["A"][0] < 0.5 < _texts(axes[0, 2])["P"][0]
    # Voxels of 2 × 1 × 1.5 mm.
    assert [ax.get_aspect() for ax in axes[0]] == [0.5, 0.75, 1.5]
    [image] = case.channels.values()
    shown = np.asarray(axes[0, 0].images[0].get_array())
    # Rows from the back to the front, columns from the right, which is the last of the first axis, to the left.
    np.testing.assert_array_equal(shown, image[::-1, :, 0].T)
    np.testing.assert_array_equal(np.asarray(axes[0, 2].images[0].get_array()), image[3, ::-1].T)
    # The structure is at the right, the front and the foot.
    assert np.argwhere(axes[1, 0].images[1].get_array() == 1).tolist() == [[4, 0], [5, 0]]


def test_without_foreground_it_says_so(make_case, drawn):
    key_slices(make_case(empty=True), description="")
    assert "No foreground was found." in drawn[0].get_supxlabel() and not drawn[0].legends


def test_a_picture_has_no_sides_and_a_single_slice_one_plane(make_case, drawn, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    label = np.zeros((9, 6), np.uint8)
    key_slices(make_case(files=[tmp_path / "p.png"], label=label, uncertainty=None, affine=np.eye(4)), description="")
    key_slices(make_case(shape=(6, 5, 1)), description="")
    picture, slice_ = drawn
    assert [len(ax.texts) for ax in picture.axes] == [0, 0]
    # Drawn from below, the first row on top.
    np.testing.assert_array_equal(picture.axes[0].images[0].get_array(), pixels[::-1])
    assert len(slice_.axes) == 3 and {len(ax.texts) for ax in slice_.axes} == {4}


def test_a_name_is_text_and_no_mathematics(make_case, drawn):
    key_slices(make_case("$\\frac{1}$ <b>"), description="")
    assert drawn[0].get_suptitle() == r"\$\frac{1}\$ <b>"
