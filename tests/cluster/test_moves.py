"""docs/protocol.md, "Moving an established connection", on the cluster: a server that terminates parts from
its clients before it goes."""

from __future__ import annotations

import json
import time

import pytest
from agents import counters
from harms import unharmed
from load import Load
from release import wait_for

LINGERS_S = 25
"""How long a server goes on once it is told to terminate."""
WITHIN_S = 5.0
VICTIM = "server-node-1-0"


@pytest.fixture
def load(wharfinger):
    load = Load(
        wharfinger.cluster,
        namespace="moves-tests",
        connections=300,
        interval_s=1.0,
        moves={"mode": "Close", "onDrain": True},
        lingers_s=LINGERS_S,
    )
    load.start(servers_per_node=1)
    yield load
    load.remove()


def test_p10_clients_of_a_server_that_terminates_read_an_orderly_end_while_it_is_there(load):
    """Idle ones, those that listen and those that talk, from the server's own node and from others; no client
    of another server notices."""
    before, counted = load.seen(), counters(load.cluster)["to_pod", "client_closes"]
    held = before.servers[VICTIM]
    assert held > 50
    since = time.time()
    load.kubectl("delete", "pod", VICTIM, "--wait=false")
    wait_for(lambda: not load.seen().servers.get(VICTIM), f"the end of {held} connections", seconds=LINGERS_S)
    assert json.loads(load.kubectl("get", "pod", VICTIM, "-o", "json"))["metadata"]["deletionTimestamp"]
    seen = unharmed(load, before, VICTIM)
    ends = seen.ended_of(VICTIM)
    assert (len(ends), {end["how"] for end in ends}) == (held, {"end"})
    slowest = max(end["at"] for end in ends) - since
    print(f"{held} connections ended within {slowest:.2f} s")
    assert slowest < WITHIN_S
    assert counters(load.cluster)["to_pod", "client_closes"] - counted >= held
    load.lose(VICTIM)
    load.goes_on()
    finished = load.finish()
    assert [end for end in finished.ended_but_of(VICTIM) if end not in before.ended] == []
    assert finished.wrong == ()


def test_p10_clients_of_a_server_that_leaves_its_service_read_an_orderly_end(load):
    before = load.seen()
    load.kubectl("label", "pod", VICTIM, "app=elsewhere", "--overwrite")
    wait_for(lambda: not load.seen().servers.get(VICTIM), "the end of its connections", seconds=LINGERS_S)
    assert {end["how"] for end in unharmed(load, before, VICTIM).ended_of(VICTIM)} == {"end"}
