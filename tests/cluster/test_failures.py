"""Failures under a load of a thousand open connections, every byte of which is checked: none breaks but those whose server is gone."""

from __future__ import annotations

import json
import os
import random
import time

import pytest
from load import Load
from release import NAMESPACE, wait_for

SEED = int(os.environ.get("WHARFINGER_SEED") or random.SystemRandom().randrange(1 << 32))
OWN = ("agent", "operator", "injector")
CONTROL = ("kube-apiserver", "etcd")


@pytest.fixture(scope="module")
def cluster(wharfinger):
    return wharfinger.cluster


@pytest.fixture(scope="module")
def load(cluster):
    """A thousand connections between all nodes; at the end each of them that still should be is asked for a last message."""
    load = Load(cluster)
    load.start()
    yield load
    load.remove()


@pytest.fixture(scope="module")
def moments():
    """Random moments, the same for the same seed."""
    print(f"WHARFINGER_SEED={SEED}")
    return random.Random(SEED)


def containers(cluster, component):
    """(pod, container's start) of a component's pods."""
    found = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "pods", "-l", f"app.kubernetes.io/component={component}", "-o", "json"))["items"]
    return {pod["metadata"]["name"]: (status.get("restartCount"), status["ready"]) for pod in found
            for status in pod["status"].get("containerStatuses", ())}


def kill(cluster, component):
    """`kill -9` of each container of a component of ours; returns when all of them run again."""
    before = containers(cluster, component)
    for pod in before:
        cluster.signal(NAMESPACE, pod, component, "SIGKILL")
    wait_for(lambda: (now := containers(cluster, component)).keys() == before.keys() and all(
        count > before[pod][0] and ready for pod, (count, ready) in now.items()), f"the {component} to be back", seconds=90)


def unharmed(load, before):
    """No connection ended since, no byte was wrong, no new connection failed."""
    seen = load.seen()
    assert seen.ended == before.ended
    assert seen.wrong == ()
    assert seen.failed == before.failed
    assert seen.open == before.open
    assert load.wrong_at_servers() == []
    return seen


@pytest.mark.parametrize("component", OWN)
def test_no_connection_notices_that_a_part_of_ours_is_killed(cluster, load, moments, component):
    before = load.seen()
    time.sleep(moments.uniform(0, 2))
    kill(cluster, component)
    load.goes_on()
    load.programs_a_change()
    after = unharmed(load, before)
    print(f"{component}: {after.open} open, {after.messages} messages, slowest {after.slowest_s:.3f} s, {after.fresh} fresh connections")
