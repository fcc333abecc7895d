"""Every program of the object in this kernel: the verifier takes it, and it can be put on an interface in
each way that the kernel has."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from pyroute2 import netns
from support import programs
from support.lab import PREFIX, inside, sh
from wharfinger_dataplane import netlink
from wharfinger_dataplane._bpf import TCX_INGRESS, Link
from wharfinger_dataplane.attach import POD_PROGRAMS, PRIORITY, Attacher, Mode

NODE = f"{PREFIX}-kernel"


@pytest.fixture
def veth() -> Iterator[int]:
    """The index of an interface in a namespace of its own."""
    if NODE in netns.listnetns():
        netns.remove(NODE)
    netns.create(NODE)
    try:
        sh(f"ip -n {NODE} link add v0 type veth peer name v1")
        yield int(sh(f"ip -n {NODE} -o link show v0").split(":")[0])
    finally:
        netns.remove(NODE)


@pytest.fixture
def attached(veth: int, modes: list[Mode]) -> Callable[[], set[int]]:
    """Ids of the programs that the kernel has at the interface, as tcx links or as classic filters."""

    def ask() -> set[int]:
        said = "".join(
            sh(f"tc -n {NODE} filter show dev v0 {direction}") for direction in ("ingress", "egress")
        )
        classic = {int(number) for number in re.findall(r" id (\d+) ", said)}
        return classic | (set(inside(NODE, lambda: programs.attached(veth))) if Mode.TCX in modes else set())

    return ask


def test_the_verifier_takes_every_program(loaded, note):
    note("release", os.uname().release)
    counts = {name: programs.instructions(program.fd) for name, program in loaded.client.programs.items()}
    note("instructions", counts)
    assert all(counts.values())


def test_every_program_is_attached_and_read_back(loaded, veth, attached, mode):
    for name, program in loaded.client.programs.items():
        direction = "ingress" if program.attach_type == TCX_INGRESS else "egress"
        if mode is Mode.TCX:
            with closing(inside(NODE, lambda program=program: Link.create(program, veth))):
                found = attached()
        else:
            inside(
                NODE,
                lambda program=program, name=name, direction=direction: netlink.put_filter(
                    veth, direction, program.fd, name, PRIORITY
                ),
            )
            found = attached()
            inside(NODE, lambda direction=direction: netlink.drop_filter(veth, direction, PRIORITY))
        assert found == {programs.number(program.fd)}, name
        assert attached() == set()


def test_an_agent_takes_links_where_the_kernel_has_them_and_else_classic_filters(
    loaded, pins, veth, attached, modes
):
    attacher = Attacher(loaded.client.programs, pins / "links-auto")
    assert inside(NODE, lambda: attacher.attach({veth: POD_PROGRAMS})).failed == {}
    assert attached() == {programs.number(loaded.client.programs[name].fd) for name in POD_PROGRAMS}
    links = {path.name for path in (pins / "links-auto").iterdir()}
    assert links == ({f"{veth}-{name}" for name in POD_PROGRAMS} if Mode.TCX in modes else set())
    assert inside(NODE, attacher.detach_all) == len(POD_PROGRAMS)
    assert attached() == set()
