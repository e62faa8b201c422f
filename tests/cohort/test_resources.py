from __future__ import annotations

import pytest

from medsegdiff.cohort.resources import cores_each, default_workers, gpus_each

CLUSTERS = [[1], [2], [16], [4, 4, 4], [64, 2], [3, 5, 7], [1.5, 2.5]]


@pytest.mark.parametrize(("cores", "gpus", "workers"), [(1, 0, 1), (2, 0, 1), (8, 0, 2), (64, 0, 16), (64, 3, 3)])
def test_a_worker_comes_for_each_gpu_or_for_every_four_cores(cores, gpus, workers):
    assert default_workers(cores, gpus) == workers


@pytest.mark.parametrize("nodes", CLUSTERS, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 12, 100])
def test_all_workers_find_a_place_and_no_larger_share_would_do(nodes, workers):
    share = cores_each(nodes, workers)
    assert sum(int(int(node) / share + 1e-9) for node in nodes) >= workers
    if share >= 1:
        assert sum(int(node) // (share + 1) for node in nodes) < workers
    else:
        assert sum(int(int(node) / (1 / (1 / share - 1)) + 1e-9) for node in nodes) < workers


@pytest.mark.parametrize(
    ("nodes", "workers", "share"), [([4], 2, 1), ([1], 1, 1), ([1], 3, 1 / 3), ([2, 2], 5, 1 / 2), ([0, 0], 4, 0)]
)
def test_a_worker_has_one_gpu_or_a_fraction_of_one(nodes, workers, share):
    assert gpus_each(nodes, workers) == share
