"""Failures under a load of a thousand open connections, every byte of which is checked: none breaks but those whose server is gone."""

from __future__ import annotations

import math
import os
import random
import time

import pytest
from harms import KUBERNETES, OWN, delete_by_force, kill_kubernetes, kill_own, not_ready, standing, told, unharmed
from load import Load
from recorder import Recorder
from release import NAMESPACE, wait_for
from support.history import judge

SEED = int(os.environ.get("WHARFINGER_SEED") or random.SystemRandom().randrange(1 << 32))
AT_ONCE_S = 8.0
"""On a machine that does ten other things; a time-out would be 15 minutes."""
REST_S = 8.0
LEARNED_S = 4.0
"""Within what time an agent that hears the API server has done what a slice says."""


@pytest.fixture(scope="module")
def cluster(wharfinger):
    return wharfinger.cluster


@pytest.fixture(scope="module")
def load(cluster):
    """A thousand connections between all nodes."""
    load = Load(cluster, rest=f"{REST_S:.0f}s")
    load.remove()
    load.start()
    assert load.seen().open >= 1000
    yield load
    load.remove()


@pytest.fixture(scope="module")
def moments():
    """Random moments, the same for the same seed."""
    print(f"WHARFINGER_SEED={SEED}")
    return random.Random(SEED)


@pytest.mark.parametrize("component", [*OWN, *KUBERNETES])
def test_no_connection_notices_that_a_process_is_killed(cluster, load, moments, component):
    before = load.seen()
    time.sleep(moments.uniform(0, 2))
    (kill_own if component in OWN else kill_kubernetes)(cluster, component)
    load.goes_on()
    load.programs_a_change()
    after = unharmed(load, before)
    assert after.open == before.open
    print(f"{component}: {after.open} open, {after.messages - before.messages} messages, {after.fresh - before.fresh} fresh connections")


def test_a_new_client_is_aware_after_all_that(load):
    load.add_client("late", load.cluster.nodes[0].name, 30)


def test_clients_of_a_server_that_is_deleted_by_force_are_told_at_once_and_no_others(load):
    before = load.seen()
    victim = f"server-{load.cluster.nodes[1].name}-0"
    since = time.time()
    delete_by_force(load, victim)
    told(load, before, since, AT_ONCE_S, victim)
    load.lose(victim)
    time.sleep(max(0.0, since + AT_ONCE_S - time.time()))
    load.goes_on()
    unharmed(load, before, victim, until=dict.fromkeys(load.clients, since + AT_ONCE_S))


def test_servers_of_a_client_that_is_deleted_by_force_are_told_at_once(load):
    others = load.held_at_servers()
    load.add_client("mayfly", load.cluster.nodes[1].name, 60)
    before = load.seen()
    wait_for(lambda: load.held_at_servers() >= others + 50, "the servers to see the connections")
    delete_by_force(load, "mayfly")
    load.lose("mayfly")
    wait_for(lambda: load.held_at_servers() <= others + 10, "the servers to see the client's FIN or RST", seconds=AT_ONCE_S)
    unharmed(load, before)


def test_a_lost_nodes_clients_are_told_once_it_is_known_and_what_works_behind_a_partition_goes_on(cluster, load):
    """And the lost node holds its servers' ports until it is back, whatever their rest time."""
    busy = next(node for _, _, node in standing(cluster, "operator").values())
    lost, parted = [node.name for node in cluster.nodes if node.name != busy]
    gone = [pod.name for pod in load.servers.values() if pod.node == lost]
    behind = [pod.name for pod in load.servers.values() if pod.node == parted]
    mourned = [pod.name for pod in load.clients.values() if pod.node == lost]
    load.programs_a_change()  # so that every node has acknowledged what stands when the history begins
    recorder = Recorder(cluster)
    recorder.start()
    cluster.cut(lost)
    cluster.part(parted)
    cluster.stop_node(lost)
    try:
        load.lose(*gone, *mourned)
        before = load.seen()
        wait_for(lambda: not_ready(cluster, lost, parted), "the control plane to miss the nodes", seconds=150, every=2)
        wait_for(lambda: {load.states()[name] for name in (*gone, *behind)} == {"Draining"}, "their servers to be drained", seconds=60)
        until = {client.name: math.inf if client.node == parted else time.time() + LEARNED_S for client in load.clients.values()}
        load.goes_on()
        seen = unharmed(load, before, *gone, until=until)
        assert seen.ended_of(*gone) == [end for end in before.ended if end["server"] in gone]  # nobody has said yet that they are gone
        assert all(seen.servers[name] > 0 for name in behind)
        cluster.mend(parted)
        load.wait_for_servers(*behind, seconds=90)
        until = {name: min(moment, time.time() + LEARNED_S) for name, moment in until.items()}
        since = time.time()
        delete_by_force(load, *gone, *mourned)
        assert "end" not in told(load, before, since, AT_ONCE_S, *gone)
        numbers = load.ports(*gone)
        assert len(numbers) == len(gone)
        time.sleep(max(0.0, since + REST_S + LEARNED_S - time.time()))
        load.add_server("server-late", parted)
        assert not numbers & load.ports("server-late")
        assert {load.states()[name] for name in gone} == {"Resting"}
        unharmed(load, before, *gone, until=until)
    finally:
        cluster.mend(lost)
        cluster.start_node(lost)
        wait_for(cluster.healthy, "the node to be back", seconds=150, every=2)
        cluster.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/wharfinger-agent", "--timeout=120s")
    wait_for(lambda: not load.states().keys() & set(gone), "the node that is back to let go of the ports", seconds=60)
    history = [change for change in recorder.changes() if change.raw["metadata"].get("namespace", load.namespace) == load.namespace]
    assert judge(history, {"load": REST_S}).faults == []
    unharmed(load, before, *gone, until=until)


def test_every_connection_that_was_left_ends_in_order_with_each_byte_where_it_belongs(load):
    before = load.seen()
    after = load.finish()
    assert before.open > 200
    assert after.ended == before.ended
    assert after.wrong == ()
    assert load.wrong_at_servers() == []
