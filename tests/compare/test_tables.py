"""Tables: what stands in the runs' folders, joined."""

from __future__ import annotations

import math

import pandas as pd

from medsegdiff.compare.runs import FAILED
from medsegdiff.compare.tables import TABLES, failures, write_tables
from medsegdiff.data.splits import write_json

METRICS = {
    "label": 1,
    "class_name": "anterior",
    "status": "present",
    "dice": 0.5,
    "hd95": math.nan,
    "nsd": 1.0,
    "iou": 1 / 3,
    "precision": 0.5,
    "recall": 0.5,
    "prediction_voxels": 3,
    "truth_voxels": 4,
    "prediction_volume": 3.0,
    "truth_volume": 4.0,
}


def evaluation(steps, **fields):
    return {
        "cases": [{"step": k, "probe": "", "t": None, "case": "a", **METRICS, **fields} for k in steps],
        "uncertainty": [{"case": "a", "ece": 0.1, "ause": 0.2, "ged": None}],
        "calibration": [{"bin_low": 0.0, "bin_high": 1.0, "count": 7, "confidence": 0.9, "accuracy": 0.8}],
        "sparsification": [{"removed": 0.0, "error": 1.0, "oracle": 1.0}],
        "seconds_per_case": 2.5,
        "machine": "a machine",
    }


def read(plan, name):
    return pd.read_csv(plan.folder / name, dtype=str, keep_default_na=False)


def test_rows_say_which_run_and_sampling_they_are_of(plan_study, pretend_trained):
    plan = plan_study(evaluation={"samplers": ["ddim"], "steps": [2], "draws": [3], "seeds": [6], "probe_t": 9})
    pretend_trained(*plan.runs)
    supervised, diffusion = plan.runs
    write_json(plan.evaluation_file(supervised, supervised.samplings[0]), evaluation([1]))
    write_json(plan.evaluation_file(diffusion, diffusion.samplings[0]), evaluation([1, 2]))
    probe = [{"step": 1, "probe": "truth", "t": 9, "case": "a", **METRICS}]
    write_json(plan.evaluation_file(diffusion, diffusion.probes[0]), {"cases": probe})
    write_tables(plan, {})

    cases = read(plan, "cases.csv")
    columns = ["method", "fold", "seed", "sampler", "steps", "step", "draws", "sampling_seed", "probe", "t"]
    assert cases[columns].to_numpy().tolist() == [
        ["supervised", "", "0", "", "1", "1", "1", "6", "", ""],
        ["diffusion", "", "0", "ddim", "2", "1", "3", "6", "", ""],
        ["diffusion", "", "0", "ddim", "2", "2", "3", "6", "", ""],
        ["diffusion", "", "0", "", "1", "1", "1", "6", "truth", "9"],
    ]
    assert cases["run"].tolist() == [supervised.hash] + [diffusion.hash] * 3
    assert cases["iou"].map(float).tolist() == [1 / 3] * 4, "no digit is lost"
    assert set(cases["hd95"]) == {""} and set(cases["truth_voxels"]) == {"4"}

    runs = read(plan, "runs.csv")
    assert runs[["method", "status", "optimiser_steps", "seconds_per_case", "machine"]].to_numpy().tolist() == [
        ["supervised", "done", "6", "2.5", "none"],
        ["diffusion", "done", "6", "2.5", "none"],
    ]
    assert read(plan, "uncertainty.csv")["ged"].tolist() == ["", ""]
    assert read(plan, "calibration.csv")["count"].tolist() == ["7", "7"]
    assert read(plan, "sparsification.csv")["error"].tolist() == ["1.0", "1.0"]
    assert runs["num_train_timesteps"].tolist() == ["", "1001"]


def test_tables_without_rows_have_their_columns(plan_study):
    plan = plan_study()
    plan.folder.mkdir()
    write_tables(plan, {})
    for name, columns in TABLES.items():
        assert tuple(read(plan, name).columns) == columns


def test_failures_have_a_row_each_and_take_ensembles_with_them(plan_study, pretend_trained):
    plan = plan_study(ensembles=[["supervised", "diffusion"]], methods=["supervised", "diffusion", "recycling"])
    supervised, diffusion, recycling, ensemble = plan.runs
    pretend_trained(supervised, recycling)
    diffusion.prepare_folder()
    diffusion.write_record(FAILED, {"reason": "bad luck"})
    write_json(plan.evaluation_file(supervised, supervised.samplings[0]), evaluation([1]))
    write_tables(plan, {recycling.hash: "measure: MemoryError: none"})

    runs = read(plan, "runs.csv")
    assert runs[["method", "status", "reason"]].to_numpy().tolist() == [
        ["supervised", "done", ""],
        ["diffusion", "failed", "bad luck"],
        ["recycling", "failed", "measure: MemoryError: none"],
        [ensemble.method, "failed", "its member diffusion, seed 0 failed: bad luck"],
    ]
    assert set(failures(plan, {})) == {"diffusion, seed 0", "supervised+diffusion, seed 0"}


def test_rows_of_what_is_not_asked_for_stay_out(plan_study, pretend_trained):
    plan = plan_study(evaluation={"steps": [2, 3]})
    pretend_trained(*plan.runs)
    run = plan.runs[1]
    for sampling in run.samplings:
        write_json(plan.evaluation_file(run, sampling), evaluation([sampling.steps]))
    less = plan_study(evaluation={"steps": [3]})
    write_tables(less, {})
    assert read(less, "cases.csv")["steps"].tolist() == ["3"]
    write_tables(plan, {})
    assert read(plan, "cases.csv")["steps"].tolist() == ["2", "3"]
