"""The report handler on a tiny fake evaluator, on MONAI's own, and in two processes."""

from __future__ import annotations

import csv
import json
import logging
import math

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from medsegdiff.errors import DataError, SpecError
from medsegdiff.handlers.metrics_report import MetricsReport

CLASSES = ["left", "right"]
AFFINE = torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0], dtype=torch.float64))


def label(*, path: str | None = "labels/case_7.nii.gz", affine=AFFINE) -> MetaTensor:
    """(1, 6, 6, 6) with class 1 in two slices and class 2 in two others."""
    volume = torch.zeros(1, 6, 6, 6)
    volume[:, 0:2] = 1
    volume[:, 4:6] = 2
    return MetaTensor(volume, affine=affine, meta={"filename_or_obj": path} if path else {})


def item(pred: torch.Tensor | None = None, **options) -> dict[str, torch.Tensor]:
    truth = label(**options)
    return {"pred": truth.clone() if pred is None else pred, "label": truth}


def one_hot(labels: torch.Tensor, n_classes: int = 3) -> torch.Tensor:
    return torch.stack([labels[0].as_tensor() == k for k in range(n_classes)]).float()


def evaluate(items, folder, **options) -> Engine:
    """Run a fake evaluator that gives one item per iteration."""
    engine = Engine(lambda _engine, batch: [batch])
    MetricsReport(folder, CLASSES, **options).attach(engine)
    engine.run(items)
    return engine


def read_cases(folder) -> list[str]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row["case"] for row in csv.DictReader(file) if row["class_name"] == "left"]


class TestReport:
    def test_perfect_predictions(self, tmp_path):
        metrics = evaluate([item(), item(path="labels/case_8.nii.gz")], tmp_path).state.metrics
        assert (metrics["mean_dice"], metrics["dice_left"], metrics["mean_hd95"], metrics["nsd_right"]) == (1, 1, 0, 1)
        assert read_cases(tmp_path) == ["case_7", "case_8"]

    def test_distances_are_in_mm(self, tmp_path):
        prediction = label()
        prediction[:, 1] = 0  # class 1 loses the second of two slices that lie 2 mm apart
        metrics = evaluate([item(prediction)], tmp_path).state.metrics
        assert metrics["hd95_left"] == pytest.approx(2)
        assert metrics["dice_left"] == pytest.approx(2 / 3)
        assert metrics["mean_dice"] == pytest.approx((2 / 3 + 1) / 2)

    def test_a_missed_structure_is_counted_and_penalised(self, tmp_path):
        prediction = label()
        prediction[prediction == 2] = 0
        metrics = evaluate([item(prediction), item(path="other.nii")], tmp_path).state.metrics
        assert metrics["n_missed"] == 1
        assert metrics["hd95_right"] == pytest.approx(math.hypot(6 * 2, 6 * 1, 6 * 3) / 2)

    def test_regions_are_unions_of_classes(self, tmp_path):
        prediction = label()
        prediction[prediction == 1] = 2  # wrong as a class, right as a part of the union
        regions = {"whole": [1, 2], "core": [2]}
        metrics = evaluate([item(prediction)], tmp_path, regions=regions).state.metrics
        assert (metrics["dice_whole"], metrics["dice_core"]) == (1, pytest.approx(2 / 3))
        assert "dice_left" not in metrics
        with (tmp_path / "metrics.csv").open(newline="") as file:
            assert [(row["label"], row["class_name"]) for row in csv.DictReader(file)] == [
                ("1", "whole"),
                ("2", "core"),
            ]

    @pytest.mark.parametrize("labels", [[], [0, 1], [3]])
    def test_regions_of_other_labels_are_refused(self, tmp_path, labels):
        with pytest.raises(SpecError, match="regions whole have no labels, or others than the classes 1 to 2"):
            MetricsReport(tmp_path, CLASSES, regions={"whole": labels})

    @pytest.mark.parametrize("scale", [1.0, 0.4])
    def test_one_hot_and_probabilities_are_decided_by_the_largest(self, tmp_path, scale):
        prediction = scale * one_hot(label()) + (1 - scale) / 3
        assert evaluate([item(prediction)], tmp_path).state.metrics["mean_dice"] == 1

    def test_two_dimensions(self, tmp_path):
        truth = MetaTensor(label()[..., 0].as_tensor(), affine=torch.diag(torch.tensor([0.5, 2.0, 1.0])))
        prediction = truth.as_tensor().roll(1, dims=2)
        metrics = evaluate([{"pred": prediction, "label": truth}], tmp_path).state.metrics
        assert metrics["mean_dice"] == 1  # rolled along the bars
        assert read_cases(tmp_path) == ["case_0001"]

    def test_pictures_are_measured_by_their_outlines_too(self, tmp_path):
        truth = MetaTensor(label()[..., 0].as_tensor(), affine=torch.eye(4))
        metrics = evaluate([{"pred": truth.clone(), "label": truth}], tmp_path / "pictures").state.metrics
        assert metrics["mean_boundary_f"] == metrics["weighted_coverage_left"] == metrics["area_ratio_right"] == 1
        assert "mean_boundary_f" not in evaluate([item()], tmp_path / "volumes").state.metrics

    def test_the_table_shows_what_is_asked_for(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="medsegdiff"):
            evaluate([item()], tmp_path, table_metrics=["dice", "precision", "recall"])
        header = next(line for line in caplog.text.splitlines() if line.startswith("class"))
        assert header.split()[3:] == ["Dice", "Precision", "Recall"]

    def test_a_metric_that_does_not_exist_is_refused_at_once(self, tmp_path):
        with pytest.raises(SpecError, match="metrics f2 do not exist; use some of dice, hd95"):
            MetricsReport(tmp_path, CLASSES, table_metrics=["dice", "f2"])

    def test_settings_stand_beside_the_metrics(self, tmp_path):
        evaluate([item()], tmp_path, settings={"method": "recycling", "seed": 3}, nsd_tolerance=2.0)
        with (tmp_path / "metrics.csv").open(newline="") as file:
            row = next(csv.DictReader(file))
        assert (row["method"], row["seed"], row["nsd_tolerance"]) == ("recycling", "3", "2")
        settings = json.loads((tmp_path / "summary.json").read_text())["settings"]
        assert settings == {"nsd_tolerance": 2.0, "method": "recycling", "seed": 3}

    def test_the_table_is_logged(self, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="medsegdiff"):
            evaluate([item()], tmp_path)
        assert "metrics of 1 cases" in caplog.text
        assert "right" in caplog.text and str(tmp_path / "metrics.csv") in caplog.text

    def test_a_second_run_starts_anew(self, tmp_path):
        engine = Engine(lambda _engine, batch: [batch])
        MetricsReport(tmp_path, CLASSES).attach(engine)
        engine.run([item(), item(path="second.nii")])
        engine.run([item()])
        assert read_cases(tmp_path) == ["case_7"]

    def test_other_keys(self, tmp_path):
        renamed = {"mask": label(), "truth": label()}
        assert evaluate([renamed], tmp_path, keys=("mask", "truth")).state.metrics["mean_dice"] == 1

    def test_monais_evaluator(self, tmp_path):
        from monai.data import DataLoader
        from monai.engines import SupervisedEvaluator

        items = [{"image": label(path=path), "label": label(path=path)} for path in ("a/one.nii", "a/two.nii")]
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(items, batch_size=2),
            network=torch.nn.Identity(),
            val_handlers=[MetricsReport(tmp_path, CLASSES)],
        )
        evaluator.run()
        assert evaluator.state.metrics["mean_dice"] == 1
        assert read_cases(tmp_path) == ["one", "two"]


class TestCaseNames:
    @pytest.mark.parametrize(
        ("paths", "names"),
        [
            (["a/x.nii.gz", "a/y.mha"], ["x", "y"]),
            (["a/x.1.png"], ["x.1"]),
            (["d/s1/seg.nii.gz", "d/s2/seg.nii.gz"], ["s1/seg", "s2/seg"]),
            (["s1/d/seg.nii.gz", "s2/d/seg.nii.gz"], ["s1/d/seg", "s2/d/seg"]),
            (["a/x.nii", None, None], ["x", "case_0002", "case_0003"]),
        ],
    )
    def test_they_come_from_the_file_of_the_label(self, tmp_path, paths, names):
        evaluate([item(path=path) for path in paths], tmp_path)
        assert read_cases(tmp_path) == names

    def test_a_file_measured_twice_is_numbered_with_a_warning(self, tmp_path, caplog):
        evaluate([item(), item()], tmp_path)
        assert read_cases(tmp_path) == ["case_7", "case_7#2"]
        assert "measured more than once: case_7" in caplog.text


class TestBadInput:
    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (
                {"pred": label(), "label": label().as_tensor()},
                "case case_0001: 'label' is a plain Tensor without voxel",
            ),
            (item(torch.zeros(2, 6, 6, 6)), "case case_7: 'pred' has 2 channels; allowed are 1 .* or 3"),
            (item(torch.full((3, 6, 6, 6), math.nan)), "case case_7: 'pred' holds NaN"),
            (item(torch.zeros(1, 6, 6, 5)), r"case case_7: prediction has shape \(6, 6, 5\)"),
            (item(label(affine=2 * AFFINE)), "case case_7: prediction and truth lie up to .* mm apart"),
            (
                {"pred": label(), "label": MetaTensor(one_hot(label()))},
                "'label' has 3 channels; allowed is a label map",
            ),
        ],
    )
    def test_a_case_that_cannot_be_measured(self, tmp_path, bad, message):
        with pytest.raises(DataError, match=message):
            evaluate([bad], tmp_path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("output", [{"pred": 1, "label": 2}, [{"pred": 1}], torch.zeros(1)])
    def test_an_output_of_another_form(self, tmp_path, output):
        engine = Engine(lambda _engine, _batch: output)
        MetricsReport(tmp_path, CLASSES).attach(engine)
        with pytest.raises(SpecError, match="decollate=True"):
            engine.run([0])

    def test_rounding_of_an_affine_is_not_another_grid(self, tmp_path):
        assert evaluate([item(label(affine=AFFINE * (1 + 1e-6)))], tmp_path).state.metrics["mean_dice"] == 1


def _evaluate_in_process(rank: int, folder: str) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    prediction = label()
    prediction[:, rank] = 0  # each process measures a case with another fault
    engine = evaluate([item(prediction, path=f"case_{rank}.nii")], f"{folder}/report")
    torch.save(engine.state.metrics, f"{folder}/metrics_{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_report_together(tmp_path):
    torch.multiprocessing.start_processes(_evaluate_in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    one, other = (torch.load(tmp_path / f"metrics_{rank}.pt") for rank in range(2))
    assert one == other
    assert one["dice_left"] == pytest.approx(2 / 3)
    assert read_cases(tmp_path / "report") == ["case_0", "case_1"]
