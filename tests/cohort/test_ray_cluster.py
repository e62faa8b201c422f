"""Reaching Ray: what goes wrong before there is a cluster."""

from __future__ import annotations

import socket
import sys

import pytest

from medsegdiff.cohort.ray_cluster import RayCluster
from medsegdiff.errors import SpecError


def test_ray_that_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"needs Ray, which is not installed; run pip install 'medsegdiff\[ray\]'"):
        RayCluster(None, use_gpus=False)


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_an_address_without_a_cluster_is_a_user_error(monkeypatch, where):
    pytest.importorskip("ray", reason="needs Ray: pip install 'medsegdiff[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", "nonsense" if where == "environment" else "auto")
    cluster = RayCluster("nonsense" if where == "argument" else None, use_gpus=False)
    with pytest.raises(SpecError, match=r"Ray at 'nonsense' does not answer .* start a cluster by ray start --head"):
        cluster.open(2, most=2)
    cluster.close()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_does_not_listen_is_said_at_once(address):
    pytest.importorskip("ray", reason="needs Ray: pip install 'medsegdiff[ray]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        cluster = RayCluster(address.format(taken.getsockname()[1]), use_gpus=False)
        with pytest.raises(SpecError, match=r"does not answer .*refused"):
            cluster.open(2, most=2)
