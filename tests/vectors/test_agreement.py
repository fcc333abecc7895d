"""Whatever the frame, the engine and the kernel's programs do the same."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.lab import inside
from support.packets import MACS, NOP, option, tcp
from support.slices import VIRTUAL, pool_slice
from vectors import answers, ends, errors, establishing, opening, outsiders, policy, substitutes, unaware
from vectors.twins import KEY
from vectors.vector import CLIENT, INTERFACES, ISN, OTHER, PODS, SERVER, SERVER_ISN, SETTLED, SYN, Step, Vector, X, Y
from wharfinger_dataplane._engine import HOOKS, Engine
from wharfinger_dataplane._records import TRACES_ALL
from wharfinger_dataplane.telemetry._identity import is_told

BOUNDED = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SLICES = (pool_slice({"a": SERVER, "b": OTHER}),)
CORPUS = sorted(
    {
        step.frame
        for module in (answers, ends, errors, establishing, opening, outsiders, policy, substitutes, unaware)
        for vector in module.VECTORS
        for step in vector.steps
        if isinstance(step, Step) and len(step.frame) >= 34 and step.frame[12:14] == b"\x08\x00"
    }
)
LINK = 14
LINK_ADDRESSES = bytes.fromhex((MACS["dst"] + MACS["src"]).replace(":", ""))
LEAST = 34  # the kernel refuses to test-run a shorter frame that says it is IPv4
places = st.tuples(st.sampled_from(HOOKS), st.sampled_from(INTERFACES))


def ipv4(least: int) -> st.SearchStrategy[bytes]:
    """Frames that say they are IPv4, and arbitrary octets behind."""
    return st.binary(min_size=least, max_size=200).map(lambda rest: LINK_ADDRESSES + b"\x08\x00" + rest)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame of the vectors with some octets behind the link header changed, and cut or lengthened."""
    frame = bytearray(LINK_ADDRESSES + draw(st.sampled_from(CORPUS))[len(LINK_ADDRESSES):])
    for at, octet in draw(st.lists(st.tuples(st.integers(LINK, len(frame) - 1), st.integers(0, 255)), max_size=6)):
        frame[at] = octet
    frame += draw(st.binary(max_size=40))
    return bytes(frame[: draw(st.integers(LEAST, len(frame)))])


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """A well-formed segment between the ends that the tables know, with any flags, numbers and options."""
    addresses = st.sampled_from([CLIENT, SERVER, OTHER, VIRTUAL])
    ports = st.sampled_from([X, Y, Y + 1, 8080, 40_000, 55_460])
    ours = st.builds(
        option, st.integers(0, 255), st.sampled_from([X, Y, Y + 1]), scope=st.sampled_from([None, 7, 8]), version=st.sampled_from([1, 1, 2])
    )
    options = b"".join(
        draw(st.lists(st.one_of(ours, st.just(NOP * 4), st.just(b"\x02\x04\x05\xb4"), st.binary(min_size=4, max_size=4)), max_size=3))
    )[:40]
    src, dst = (f"{draw(addresses)}:{draw(ports)}" for _ in range(2))
    numbers = {name: draw(st.sampled_from([ISN, ISN + 1, SERVER_ISN, SERVER_ISN + 1, 0])) for name in ("seq", "ack")}
    flags = draw(st.sampled_from(["S", "SA", "A", "PA", "FA", "R", "RA", "SF", ""]))
    return tcp(src, dst, flags, **numbers, options=options[: len(options) // 4 * 4], payload=draw(st.binary(max_size=5)))


def agree(load, namespace: str, frames: list[tuple[tuple[str, str], bytes]], start: tuple = (), pods: Mapping = PODS) -> None:
    def work() -> None:
        twins.play(Vector("the beginning", start))
        twins.fill(SLICES, pods)
        for (hook, interface), frame in frames:
            twins.both(hook, interface, frame)

    twins = load({})
    inside(namespace, work)


@BOUNDED
@given(frames=st.lists(st.tuples(places, ipv4(LEAST - LINK)), max_size=10))
def test_arbitrary_octets_as_packets_get_the_same_from_both(load, namespace, frames):
    agree(load, namespace, frames)


@BOUNDED
@given(frames=st.lists(st.tuples(places, mutated()), max_size=12))
def test_damaged_frames_get_the_same_from_both(load, namespace, frames):
    agree(load, namespace, frames, SETTLED)


@BOUNDED
@given(
    frames=st.lists(st.tuples(places, segments()), max_size=16),
    start=st.sampled_from([(SYN,), SETTLED]),
    pods=st.sampled_from([PODS, PODS, policy.CLIENT_OUT, policy.SERVER_IN]),
)
def test_any_segments_in_any_order_get_the_same_from_both(load, namespace, frames, start, pods):
    agree(load, namespace, frames, start, pods)


@pytest.mark.parametrize(("share", "least", "most"), [(0, 0, 0), (0.5, 60, 140), (1, 200, 200)])
def test_the_programs_tell_of_the_connections_that_the_agents_code_would_choose(load, namespace, share, least, most):
    """Twins.both compares them one by one."""
    def work() -> None:
        twins.start()
        twins.fill(SLICES, PODS)
        twins.trace(round(share * TRACES_ALL))
        results = [twins.both("from_pod", "c", tcp(f"{CLIENT}:{30_000 + n}", f"{VIRTUAL}:{X}", "S", seq=n * n))[1] for n in range(200)]
        assert least <= sum(is_told(KEY, result.event, round(share * TRACES_ALL)) for result in results) <= most

    twins = load({})
    inside(namespace, work)


@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(
    hook=st.sampled_from(HOOKS),
    frame=st.one_of(st.binary(max_size=300), ipv4(0)),
)
def test_the_engine_takes_any_octets(hook, frame):
    result = Engine().run(hook, frame, ifindex=1)
    assert result.packet == frame
    assert result.reason.outcome == "pass"
