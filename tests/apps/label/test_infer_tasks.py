from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs MONAI Label: make label-env")

from medsegdiff.apps.label.environment import require_monailabel

require_monailabel()

from medsegdiff.apps.label.bundles import find_bundles
from medsegdiff.apps.label.infer_tasks import CandidateTask, UncertaintyTask, tasks_of
from medsegdiff.apps.label.predictors import Predictors
from medsegdiff.errors import SpecError


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return find_bundles([tiny_bundle], work=tmp_path)[0]


def _segmented(entropy, variance=None):
    return SimpleNamespace(prediction=SimpleNamespace(entropy=np.array(entropy), variance=variance))


def test_each_result_is_a_model_of_its_own(bundle):
    names = list(tasks_of(bundle, Predictors(), candidates=2))
    assert names == ["hippocampus", "hippocampus_uncertainty", "hippocampus_candidate_1", "hippocampus_candidate_2"]


def test_bands_begin_at_a_quarter_a_half_and_three_quarters(bundle):
    task = UncertaintyTask(bundle, Predictors())
    label = task.labels_of(_segmented([0, 0.24, 0.25, 0.49, 0.5, 0.74, 0.75, 1]), {})
    assert label.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert label.dtype == np.uint8
    assert sorted(task.labels.values()) == [1, 2, 3]


def test_per_cent_are_those_of_the_entropy_or_of_twice_the_variance(bundle):
    task = UncertaintyTask(bundle, Predictors())
    segmented = _segmented([0, 0.126, 1], np.array([0, 0.25, 0.5]))
    assert task.labels_of(segmented, {"values": "percent"}).tolist() == [0, 13, 100]
    assert task.labels_of(segmented, {"values": "percent", "measure": "variance"}).tolist() == [0, 50, 100]


def test_the_variance_of_a_single_draw_is_refused(bundle):
    with pytest.raises(SpecError, match="2 draws or more"):
        UncertaintyTask(bundle, Predictors()).labels_of(_segmented([0]), {"measure": "variance"})


def test_a_candidate_is_the_one_draw_of_a_seed_of_its_own(bundle):
    options = CandidateTask(bundle, Predictors(), number=3).options({"seed": 10, "draws": 9, "steps": 2})
    assert (options.seed, options.draws, options.steps) == (12, 1, 2)
