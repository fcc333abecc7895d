"""The main job on the real cluster: the demo's own steps, each of which asserts what it shows."""

from __future__ import annotations

import pytest
from demo import Demo
from rich.console import Console


@pytest.fixture(scope="module")
def demo(wharfinger):
    return Demo(wharfinger.cluster, Console(soft_wrap=True))


def test_k01_pools_are_counted_and_programmed(demo, capsys):
    demo.pools()
    assert "True" in capsys.readouterr().out


def test_p03_k03_an_injected_client_is_redirected_on_the_wire_and_sees_only_the_cluster_ip(demo):
    demo.burst()


def test_an_unaware_client_reaches_the_same_service_through_kube_proxy_untouched(demo):
    demo.unaware()


def test_k05_one_connection_is_one_trace_of_client_balancer_and_server(demo):
    demo.trace()


def test_p09_a_download_outlasts_the_death_of_every_agent(demo):
    demo.restarts()
