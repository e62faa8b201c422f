"""Measuring a network: the bundle's own numbers, at every step, for ensembles, slices and probes."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch

from medsegdiff.compare.evaluate import RunEvaluator
from medsegdiff.compare.runs import Probe, Sampling
from medsegdiff.errors import SpecError

ROW = ("dice", "hd95", "nsd", "iou", "precision", "recall", "prediction_volume", "truth_volume")


@pytest.fixture
def evaluator(plan_study, pretend_trained):
    """Makes the evaluator of the last run of a study."""

    def make(**changes):
        plan = plan_study(**{"methods": ["diffusion"], **changes})
        pretend_trained(*plan.runs)
        run = plan.runs[-1]
        return RunEvaluator(
            plan.study.bundle,
            run.weights_for(run.samplings[0]),
            overrides=plan.evaluate_overrides(run),
            train_overrides=None if run.training is None else run.training.arguments,
            device="cpu",
        )

    return make


def _evaluator_of(plan, run):
    weights = run.weights_for(run.samplings[0])
    return RunEvaluator(plan.study.bundle, weights, overrides=plan.evaluate_overrides(run), device="cpu")


def dice(found, step):
    return [row["dice"] for row in found["cases"] if row["step"] == step]


def evaluating(plan, run, output, **settings):
    """What the bundle's own `evaluating` measures."""
    from monai.bundle import ConfigWorkflow

    configs = plan.study.bundle / "configs"
    workflow = ConfigWorkflow(
        config_file=str(configs / "evaluate.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="eval",
        run_id="evaluating",
        bundle_root=str(plan.study.bundle),
        weights=str(run.weights[""]),
        output_dir=str(output),
        device="cpu",
        **settings,
    )
    workflow.initialize()
    workflow.run()
    return list(csv.DictReader((output / "metrics.csv").open()))


def test_the_last_step_is_what_the_bundle_measures(plan_study, pretend_trained, tmp_path):
    plan = plan_study(methods=["recycling"])
    [run] = plan.runs
    pretend_trained(run)
    wanted = evaluating(plan, run, tmp_path / "eval", sampler="ddim", steps=3, draws=2, seed=0)
    evaluator = RunEvaluator(
        plan.study.bundle, run.weights_for(run.samplings[0]), overrides=plan.evaluate_overrides(run), device="cpu"
    )
    evaluator.evaluate(Sampling("ddpm", 2, 1, 4), steps=(2,))  # which must leave nothing behind
    found = evaluator.evaluate(Sampling("ddim", 3, 2, 0), steps=(1, 2, 3))

    rows = [row for row in found["cases"] if row["step"] == 3]
    assert [(row["case"], row["class_name"]) for row in rows] == [(row["case"], row["class_name"]) for row in wanted]
    for row, other in zip(rows, wanted, strict=True):
        for metric in ROW:
            assert row[metric] == pytest.approx(float(other[metric]), rel=1e-4, nan_ok=True), metric
    assert found["seconds_per_case"] > 0


def test_the_options_of_a_sampler_are_its_own(evaluator):
    settings = {"network_options": {"channels": [4, 4], "num_res_blocks": 0, "transformer": False}}
    settings |= {"sampler": "ddim", "sampler_options": {"eta": 1.0}}
    one = evaluator(settings=settings)
    for sampler, options in (("ddim", {"eta": 1.0}), ("ddpm", {}), ("ddim", {"eta": 1.0})):
        one._set_sampling(Sampling(sampler, 2, 1, 0))
        assert (one.network.sampler, one.network.sampler_options) == (sampler, options)


def test_early_steps_are_those_of_the_same_sampling(evaluator):
    one = evaluator()
    every = one.evaluate(Sampling("ddim", 4, 2, 0), steps=(1, 2, 3, 4))
    stopped = one.evaluate(Sampling("ddim", 4, 2, 0), steps=(2, 4))

    assert {row["step"] for row in every["cases"]} == {1, 2, 3, 4}
    assert {row["step"] for row in stopped["cases"]} == {2, 4}
    assert dice(every, 2) == dice(stopped, 2) and dice(every, 4) == dice(stopped, 4)


def test_the_first_step_does_not_depend_on_the_sampler(evaluator):
    one = evaluator()
    ddpm, ddim = (one.evaluate(Sampling(name, 3, 1, 0), steps=(1, 3)) for name in ("ddpm", "ddim"))
    assert dice(ddpm, 1) == dice(ddim, 1)


def test_one_step_of_a_sampling_is_the_mean_over_its_draws(evaluator):
    one = evaluator()
    one._set_sampling(Sampling("ddpm", 2, 3, 0))
    item = one._prepared(0)
    result, means = one._sample(item, Sampling("ddpm", 2, 3, 0), steps=(1, 2), draws=True)

    assert len(means.draws) == 3
    torch.testing.assert_close(torch.stack(means.draws).mean(dim=0), result.probabilities[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(means.means[1].sum(dim=0), torch.ones(means.means[1].shape[1:]))


def test_a_supervised_network_has_one_row_a_class(evaluator):
    found = evaluator(methods=["supervised"]).evaluate(Sampling("", 1, 1, 0), steps=(1,))

    assert [(row["step"], row["class_name"]) for row in found["cases"]] == [(1, "anterior"), (1, "posterior")] * 2
    assert [row["ged"] for row in found["uncertainty"]] == [None, None]
    assert all(0 <= row["ece"] <= 1 for row in found["uncertainty"])
    assert len(found["calibration"]) == 15


def test_draws_have_a_distance_to_the_truth(evaluator):
    found = evaluator().evaluate(Sampling("ddpm", 2, 2, 0), steps=(2,))
    assert all(0 <= row["ged"] <= 2 for row in found["uncertainty"])
    assert sum(row["count"] for row in found["calibration"]) > 0


def test_an_ensemble_is_the_mean_of_its_members(plan_study, pretend_trained):
    plan = plan_study(methods=["supervised", "recycling"], ensembles=[["supervised", "recycling"]])
    pretend_trained(*plan.runs)
    evaluators = [
        RunEvaluator(
            plan.study.bundle, run.weights_for(run.samplings[0]), overrides=plan.evaluate_overrides(run), device="cpu"
        )
        for run in plan.runs
    ]
    sampling = Sampling("ddim", 2, 1, 3)
    results = []
    for one in evaluators:
        one._set_sampling(sampling)
        results.append(one._sample(one._prepared(1), sampling, steps=(), draws=False)[0].probabilities)

    torch.testing.assert_close(results[2], (results[0] + results[1]) / 2)
    assert {row["step"] for row in evaluators[2].evaluate(sampling, steps=(1, 2))["cases"]} == {2}


def test_slices_of_volumes_have_their_steps(evaluator):
    one = evaluator(settings={"dims": 2, "network_options": {"channels": [4, 4], "num_res_blocks": 0}})
    found = one.evaluate(Sampling("ddim", 3, 2, 0), steps=(1, 2, 3))
    assert {row["step"] for row in found["cases"]} == {1, 2, 3}

    item = one._prepared(0)
    one._set_sampling(Sampling("ddim", 2, 3, 0))
    result, means = one._sample(item, Sampling("ddim", 2, 3, 0), steps=(1, 2), draws=True)
    torch.testing.assert_close(torch.stack(means.draws).mean(dim=0), result.probabilities[0], rtol=1e-5, atol=1e-6)
    assert one.probe(Probe(500, 0))["cases"]


def test_windows_that_are_sampled_to_their_end_have_a_last_step_only(evaluator):
    settings = {"average": "probabilities", "roi_size": [12, 12, 12]}
    one = evaluator(evaluation={"settings": settings, "steps": [3]})
    assert {row["step"] for row in one.evaluate(Sampling("ddpm", 3, 1, 0), steps=(1, 2, 3))["cases"]} == {3}


def test_a_probe_from_the_truth_at_a_clean_time_is_the_truth_for_a_network_that_copies(evaluator):
    one = evaluator()

    def copying(x_t, t, condition, x0_prev=None, z=None):
        return x_t.clamp(-1, 1)

    one.network.denoise = copying
    rows = one.probe(Probe(0, 0))["cases"]

    truth, noise = ([row for row in rows if row["probe"] == kind] for kind in ("truth", "noise"))
    assert [row["dice"] for row in truth] == pytest.approx([1.0] * 4)
    assert max(row["dice"] for row in noise) < 0.5
    assert [row["dice"] for row in rows if row["probe"] == "x_t"] == pytest.approx([1.0] * 4)
    assert {(row["t"], row["step"]) for row in rows} == {(0, 1)}


def test_a_probe_is_what_the_step_study_sees(evaluator):
    """On the network's grid of volumes that nothing is resampled or cropped for, both measure the same."""
    from monai.bundle import ConfigParser

    from medsegdiff.compare.step_study import study_steps

    one = evaluator()
    one.network.set_sampling(seed=5, steps=1)
    parser = ConfigParser()
    parser.read_config(str(one._bundle / "configs" / "train.json"))
    parser["bundle_root"] = str(one._bundle)
    parser.parse()
    preprocess = parser.get_parsed_content("validate#preprocessing")
    items = [preprocess(item) for item in parser.get_parsed_content("datalists")["test"]]
    studies = study_steps(one.network, items, probe_t=300, device=torch.device("cpu"))

    rows = one.probe(Probe(300, 5))["cases"]
    for study in studies:
        for kind, wanted in (("truth", study.from_truth), ("noise", study.from_noise)):
            found = [row["dice"] for row in rows if row["case"] == study.case and row["probe"] == kind]
            assert np.nanmean(found) == pytest.approx(wanted, abs=1e-6)


def test_views_are_on_the_grid_of_the_file(evaluator):
    one = evaluator()
    views = one.views(one.cases[1], Sampling("ddim", 3, 1, 0))
    grid = views.truth.shape

    assert views.image.shape == views.prediction.shape == grid
    assert views.steps.shape == (3, *grid)
    np.testing.assert_array_equal(views.steps[-1], views.prediction)
    np.testing.assert_allclose(views.probabilities.sum(axis=0), 1)
    assert views.spacing == (1.0, 1.0, 1.0)


def test_regions_are_measured_where_the_bundle_measures_them(evaluator):
    one = evaluator()
    one._report.regions = {"both": [1, 2], "second": [2]}
    rows = one.evaluate(Sampling("ddpm", 1, 1, 0), steps=(1,))["cases"]
    assert [(row["label"], row["class_name"]) for row in rows] == [(1, "both"), (2, "second")] * 2
    assert rows[0]["truth_voxels"] > rows[1]["truth_voxels"] > 0


def test_a_bundle_that_measures_nothing_is_refused(evaluator, phantom_bundle, tmp_path):
    import json
    import shutil

    bundle = tmp_path / "hippocampus"
    shutil.copytree(phantom_bundle, bundle)
    config = json.loads((bundle / "configs" / "evaluate.json").read_text())
    config["handlers"] = []
    (bundle / "configs" / "evaluate.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match="has no MetricsReport, by which a study measures"):
        evaluator(bundle=str(bundle))


def test_no_number_is_lost_in_json(evaluator, tmp_path):
    from medsegdiff.compare.runs import read_json
    from medsegdiff.data.splits import write_json

    found = evaluator(methods=["supervised"]).evaluate(Sampling("", 1, 1, 0), steps=(1,))
    write_json(tmp_path / "found.json", found)
    again = read_json(tmp_path / "found.json")
    for row, other in zip(found["cases"], again["cases"], strict=True):
        assert {key: value for key, value in row.items() if value == value} == {
            key: value for key, value in other.items() if value == value
        }
    assert all(math.isnan(row["accuracy"]) == (row["count"] == 0) for row in again["calibration"])
