"""The bench of the control plane, small: that it runs, and that what it counts holds. Its figures are docs/bench.md's."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import scale
from scale_load import Size

POOLS, SERVERS, NODES, CHANGES, BURST = 20, 5, 4, 10, 20


@pytest.fixture(scope="module")
def result() -> dict:
    return scale.run(Size(POOLS, SERVERS, NODES), CHANGES, BURST)


def test_every_pool_is_programmed_from_cold_and_after_each_change_and_a_burst(result: dict) -> None:
    assert result["operator"]["pools"] == POOLS
    assert result["operator"]['service_ports{state="used"}'] == POOLS * SERVERS
    assert result["change"]["changes"] == CHANGES


def test_a_change_costs_requests_for_its_own_pool_only(result: dict) -> None:
    assert result["change"]["requests_a_change"] < 12


def test_operator_that_starts_again_writes_nothing_but_what_changes(result: dict) -> None:
    listings = 20
    assert result["restart"]["requests"] <= listings
