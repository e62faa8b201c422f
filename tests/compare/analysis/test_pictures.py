"""Pictures of cases in 2-D and 3-D: signed errors, planes, steps, and the error on the surface by closed form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medsegdiff.compare.analysis.drawing import save_figure
from medsegdiff.compare.analysis.pictures import (
    Snapshot,
    class_names,
    comparison_figure,
    overview_figure,
    read_snapshot,
    read_snapshots,
    shown_part,
    signed_error,
    steps_figure,
)
from medsegdiff.compare.analysis.surface import surface_error, surface_figure
from medsegdiff.errors import DataError

SHAPES = [(24, 20), (16, 20, 12)]


def arrays(shape, *, steps=3, method="recycling") -> dict[str, np.ndarray]:
    """A box of two classes, and a prediction that is shifted by a voxel."""
    truth = np.zeros(shape, dtype=np.uint8)
    inner = tuple(slice(4, n - 4) for n in shape)
    truth[inner] = 1
    truth[(slice(4, 8), *inner[1:])] = 2
    prediction = np.roll(truth, 1, axis=1)
    return {
        "image": np.random.default_rng(0).normal(size=shape).astype(np.float32),
        "truth": truth,
        "prediction": prediction,
        "entropy": (truth != prediction).astype(np.float32),
        "steps": np.stack([np.roll(truth, steps - k, axis=1) for k in range(steps)]),
        "spacing": np.ones(len(shape), np.float32),
        "method": np.array(method),
        "options": np.array(""),
        "case": np.array("case 1"),
        "rank": np.array("best"),
    }


@pytest.fixture(params=SHAPES, ids=["2-D", "3-D"])
def snapshot(request, tmp_path) -> Snapshot:
    np.savez_compressed(tmp_path / "case.npz", **arrays(request.param))
    return read_snapshot(tmp_path / "case.npz")


class TestReading:
    def test_it_comes_back(self, snapshot):
        assert (snapshot.case, snapshot.rank, snapshot.method) == ("case 1", "best", "recycling")
        assert snapshot.title == f"recycling, Dice {snapshot.dice:.3f}"

    def test_dice_by_hand(self):
        content = arrays((24, 20))
        names = ("method", "options", "case", "rank")
        snapshot = Snapshot(
            **{key: content[key] for key in ("image", "truth", "prediction", "steps")},
            uncertainty=content["entropy"],
            spacing=(1, 1),
            **dict.fromkeys(names, ""),
        )
        assert snapshot.dice == pytest.approx(11 / 12)  # columns of twelve, shifted by one, in both classes

    def test_what_is_no_picture(self, tmp_path):
        path = tmp_path / "case.npz"
        path.write_bytes(b"no")
        with pytest.raises(DataError, match="is no picture of a case"):
            read_snapshot(path)
        np.savez(path, **{key: value for key, value in arrays((8, 9)).items() if key != "entropy"})
        with pytest.raises(DataError, match="is no picture of a case"):
            read_snapshot(path)
        np.savez(path, **{**arrays((12, 12)), "truth": np.zeros((12, 13))})
        with pytest.raises(DataError, match="holds arrays of shapes"):
            read_snapshot(path)

    def test_image_and_truth_may_stand_in_the_first_file_of_a_case_only(self, tmp_path):
        later = {key: value for key, value in arrays((12, 10), method="cdal").items() if key not in ("image", "truth")}
        np.savez(tmp_path / "0000-case 1-a.npz", **arrays((12, 10)))
        np.savez(tmp_path / "0000-case 1-b.npz", **later)
        one, other = read_snapshots(tmp_path)
        assert (one.method, other.method) == ("recycling", "cdal")
        np.testing.assert_array_equal(one.image, other.image)
        assert other.dice == one.dice
        np.savez(tmp_path / "0001-case 2-a.npz", **{**later, "case": np.array("case 2")})
        with pytest.raises(DataError, match="is no picture of a case"):
            read_snapshots(tmp_path)


class TestCase:
    def test_the_part_that_is_shown_has_a_margin_around_truth_and_predictions(self, tmp_path):
        content = arrays((40, 30))
        content["truth"][:] = content["prediction"][:] = 0
        np.savez(tmp_path / "empty.npz", **content)
        content["truth"][15, 12] = content["prediction"][20, 14] = 1
        np.savez(tmp_path / "full.npz", **content)
        empty, full = (read_snapshot(tmp_path / f"{name}.npz") for name in ("empty", "full"))
        assert shown_part([empty]) == (slice(None), slice(None))
        assert shown_part([empty, full]) == (slice(9, 27), slice(6, 21))

    def test_classes_have_the_names_of_the_table_unless_it_measured_unions(self, snapshot):
        counts = [int((snapshot.truth == label).sum()) for label in (1, 2)]
        rows = {"case": "case 1", "label": [1, 2], "class_name": ["head", "body"], "truth_voxels": counts}
        cases = pd.DataFrame(rows)
        assert class_names(cases, snapshot) == {1: "head", 2: "body"}
        assert class_names(cases.assign(truth_voxels=[sum(counts), counts[1]]), snapshot) == {}
        assert class_names(cases.drop(columns="truth_voxels"), snapshot) == {}

    def test_their_colours_are_in_the_legend(self, snapshot):
        said = [
            [text.get_text() for text in overview_figure(snapshot, names).legends[0].get_texts()]
            for names in ({1: "head", 2: "body"}, {k: str(k) for k in range(1, 9)})
        ]
        assert said[0][:3] == ["head", "body", "missed"] and said[1][0] == "missed"


class TestFigures:
    def test_columns_and_planes(self, snapshot, tmp_path):
        figure = overview_figure(snapshot)
        planes = 1 if snapshot.truth.ndim == 2 else 3
        assert len(figure.axes) == 5 * planes + 1  # the last is the bar of the uncertainty
        titles = [ax.get_title(loc="left") for ax in figure.axes[:5]]
        assert titles == ["image", "truth", "prediction", "error", "uncertainty"]
        assert save_figure(figure, tmp_path / "a.png").stat().st_size < 100_000

    def test_steps_of_several_methods(self, snapshot):
        figure = steps_figure([snapshot, snapshot])
        shown = [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]
        assert shown == ["step 1", "step 2", "step 3", "", "", ""]  # below, the numbers are the same

    def test_numbers_of_steps_stand_once_beside_a_method_of_fewer(self):
        rows = [_snapshot(arrays((24, 20), steps=steps)) for steps in (3, 2, 3)]
        shown = [ax.get_title(loc="left") for ax in steps_figure(rows).axes if ax.get_visible()]
        assert shown == ["step 1", "step 2", "step 3", *5 * [""]]

    def test_first_and_last_of_many_steps(self):
        content = arrays((24, 20), steps=25)
        figure = steps_figure([_snapshot(content)])
        shown = [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]
        assert len(shown) == 6 and (shown[0], shown[-1]) == ("step 1", "step 25")

    def test_one_step_is_no_strip(self):
        assert steps_figure([_snapshot(arrays((24, 20), steps=1))]) is None

    def test_every_method_beside_the_truth(self, snapshot):
        figure = comparison_figure([snapshot] * 6)
        shown = [ax.get_title(loc="left") for ax in figure.axes if ax.get_visible()]
        assert shown[0] == "truth" and len(shown) == 7 and shown[1].endswith(f"{snapshot.dice:.3f}")

    @pytest.mark.parametrize("shape", SHAPES)
    def test_empty_masks_can_be_shown(self, shape):
        content = arrays(shape)
        content["truth"][:] = 0
        content["prediction"][:] = 0
        content["steps"][:] = 0
        snapshot = _snapshot(content)
        assert np.isnan(snapshot.dice)
        assert overview_figure(snapshot) is not None and steps_figure([snapshot]) is not None
        assert surface_figure(snapshot) is None


class TestSignedError:
    def test_kinds(self):
        prediction, truth = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1])
        assert signed_error(prediction, truth).tolist() == [0, 1, 2, 0, 3]


class TestSurface:
    def test_a_picture_of_volumes_alone(self, snapshot, tmp_path):
        figure = surface_figure(snapshot)
        assert (figure is None) == (snapshot.truth.ndim == 2)
        if figure is not None:
            assert save_figure(figure, tmp_path / "a.png").stat().st_size < 200_000

    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
    @pytest.mark.parametrize("grown", [-2, 0, 3])
    def test_slabs_lie_apart_by_what_one_is_thicker(self, grown, spacing):
        # Slabs that fill two axes: their only difference is the position of the upper face along the third.
        truth, prediction = np.zeros((30, 30, 30), dtype=bool), np.zeros((30, 30, 30), dtype=bool)
        truth[5:25, 5:25, 5:15] = True
        prediction[5:25, 5:25, 5 : 15 + grown] = True
        vertices, faces, distance = surface_error(truth, prediction, spacing)
        upper = (np.abs(vertices[:, 2] - 14.5 * spacing[2]) < 1e-4) & (np.abs(vertices[:, :2] - 14.5) < 3).all(axis=1)
        assert upper.any() and faces.max() < len(vertices)
        assert distance[upper] == pytest.approx(-grown * spacing[2], abs=1e-4)

    def test_vertices_are_where_the_truth_is(self):
        truth = np.zeros((20, 20, 20), dtype=bool)
        truth[8:12, 9:13, 10:14] = True
        vertices, _, distance = surface_error(truth, truth, (1.0, 2.0, 1.0))
        assert vertices.min(axis=0).tolist() == [7.5, 17.0, 9.5]
        assert vertices.max(axis=0).tolist() == [11.5, 25.0, 13.5]
        assert not distance.any()

    def test_large_structures_are_drawn_from_coarser_cells(self, monkeypatch):
        ball = (np.indices((25, 25, 25)) - 12) ** 2
        truth = ball.sum(axis=0) <= 100
        fine = surface_error(truth, truth, (1.0, 1.0, 1.0))[1]
        monkeypatch.setattr("medsegdiff.compare.analysis.surface._MOST_FACES", len(fine) // 10)
        vertices, coarse, distance = surface_error(truth, truth, (1.0, 1.0, 1.0))
        assert len(coarse) < len(fine) / 5
        assert np.abs(np.linalg.norm(vertices - 12, axis=1) - 10).max() < 1.5 and np.abs(distance).max() < 2


def _snapshot(content) -> Snapshot:
    return Snapshot(
        **{key: content[key] for key in ("image", "truth", "prediction", "steps")},
        uncertainty=content["entropy"],
        spacing=(1.0,) * content["truth"].ndim,
        **{key: str(content[key]) for key in ("method", "options", "case", "rank")},
    )
