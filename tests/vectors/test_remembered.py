"""What a record remembers of its way counts for the eighth of a second that it was looked up in (clock.h), whichever packets pass meanwhile."""

from __future__ import annotations

import time

import pytest
from support.lab import inside, sh
from support.packets import NOP, tcp
from support.slices import pool_slice
from vectors.twins import REDIRECT
from vectors.vector import ISN, NAMES_Y, PODS, REMOTE, SERVER_ISN, VX, C, X, Y
from wharfinger_dataplane._records import SETTING_LEFT_TO_STACK

STAMP_SHIFT = 27
MONOTONIC_COARSE = 6  # linux/time.h
ACK = {"seq": ISN + 1, "ack": SERVER_ISN + 1}
PLAIN, SELECTIVE = tcp(C, VX, "PA", **ACK, payload=b"x"), tcp(C, VX, "PA", **ACK, options=NOP * 12, payload=b"x")
"""The fast path takes the first; the second has options that only the whole chain looks at."""


def wait_for_next_eighth() -> None:
    """By the programs' clock."""
    def now() -> int:
        return time.clock_gettime_ns(MONOTONIC_COARSE) >> STAMP_SHIFT

    began = now()
    while now() == began:
        time.sleep(0.001)


def established(twins) -> None:
    """A connection of the client's to a server elsewhere."""
    server_x, server_y = f"{REMOTE}:{X}", f"{REMOTE}:{Y}"
    twins.start()
    twins.fill((pool_slice({"r": REMOTE}),), PODS)
    for hook, frame, reason in (
        ("from_pod", tcp(C, VX, "S", seq=ISN), "client_syn"),
        ("to_pod", tcp(server_x, C, "SA", seq=SERVER_ISN, ack=ISN + 1, options=NAMES_Y), "client_redirected"),
        ("from_pod", tcp(C, VX, "A", **ACK), "client_joins"),
        ("to_pod", tcp(server_y, C, "A", seq=SERVER_ISN + 1, ack=ISN + 1), "client_receives"),
    ):
        assert twins.both(hook, "c", frame)[1].reason.name == reason


@pytest.mark.parametrize("first", [PLAIN, SELECTIVE], ids=["a plain packet", "a packet of the whole chain"])
def test_a_way_of_an_earlier_eighth_is_looked_up_again_though_another_packet_comes_first(load, namespace, first):
    twins = load({})

    def work() -> None:
        established(twins)
        twins.set(SETTING_LEFT_TO_STACK, 1)
        wait_for_next_eighth()
        assert "stack_by_rule" in twins.both("from_pod", "c", PLAIN)[0].reasons
        twins.set(SETTING_LEFT_TO_STACK, 0)
        wait_for_next_eighth()
        assert [twins.both("from_pod", "c", frame)[0].verdict for frame in (first, PLAIN)] == [REDIRECT, REDIRECT]

    inside(namespace, work)


def test_a_way_of_an_earlier_eighth_is_looked_up_again_though_a_packet_too_big_for_the_new_one_comes_first(load, namespace):
    """The new route leads by an interface that bears no program."""
    twins, big = load({}), tcp(C, VX, "PA", **ACK, payload=bytes(1000))

    def work() -> None:
        sh(f"ip -n {namespace} neigh replace {REMOTE} lladdr 02:00:00:00:00:09 dev u nud permanent")  # else no way is remembered
        established(twins)
        assert twins.both("from_pod", "c", PLAIN)[0].verdict == REDIRECT
        sh(f"ip -n {namespace} route replace 10.99.2.0/24 dev o mtu lock 600")
        try:
            wait_for_next_eighth()
            assert "stack_too_big" in twins.both("from_pod", "c", big)[0].reasons
            assert "stack_no_hook" in twins.both("from_pod", "c", PLAIN)[0].reasons
        finally:
            sh(f"ip -n {namespace} route replace 10.99.2.0/24 dev u")
            sh(f"ip -n {namespace} neigh del {REMOTE} dev u")

    inside(namespace, work)
