"""Programs on interfaces: tcx links where the kernel has them, classic direct-action filters where it has not.

Rules:
- Both calls are told everything that shall be attached. Nothing that is not ours is touched.
- A link is pinned at <links>/<interface index>-<program>: it outlives the agent, and ends with its interface.
- Renewing puts the new program in a link between two packets: no packet passes without one.
- Nothing counts as attached that was not read back from the kernel: this program, at this interface, in this direction. Another's queueing
  discipline may take a filter and put it elsewhere, without an error.
- The programs that hold TCP stand before all others and are pinned nowhere: links end with the process, and filters hold nothing by then.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import structlog

from wharfinger_dataplane import netlink, netlink_node
from wharfinger_dataplane._bpf import TCX_INGRESS, Link, Program, has_tcx, queried
from wharfinger_dataplane.netlink_node import Filter

POD_PROGRAMS = frozenset({"wharf_from_pod", "wharf_to_pod"})
UPLINK_PROGRAMS = frozenset({"wharf_from_net"})
HOLDING = {"wharf_from_pod": "wharf_hold_from_pod", "wharf_to_pod": "wharf_hold_to_pod"}
"""Which program holds TCP before which."""
PRIORITY = 22342
"""Of our classic filters: "WF", late, as tcx links are appended behind those of others."""
HOLD_PRIORITY = PRIORITY - 1
GONE = (errno.ENODEV, errno.ENOLINK, errno.ENXIO)

Wanted = Mapping[int, frozenset[str]]
"""Interface index -> names of programs."""


class Mode(StrEnum):
    """How programs are attached: `auto` is tcx unless the kernel has none."""

    AUTO = "auto"
    TCX = "tcx"
    CLSACT = "clsact"


@dataclass
class Outcome:
    """What `attach` did, by the interfaces' indexes. `failed`: what was wrong."""

    attached: list[int] = field(default_factory=list)
    failed: dict[int, OSError] = field(default_factory=dict)


class Attacher:
    """What is attached where by this node's agent. `links` is a directory of a bpffs; `mode`: how what is not attached yet is attached,
    AUTO being decided at once."""

    def __init__(self, programs: Mapping[str, Program], links: Path, mode: Mode = Mode.AUTO) -> None:
        self._programs = programs
        self._links = links
        self.mode = mode if mode is not Mode.AUTO else Mode.TCX if has_tcx() else Mode.CLSACT
        self._attached: dict[tuple[int, str], Mode] = {}
        self._numbers: dict[tuple[int, str], int] = {}
        """Ids of the programs that this process attached or renewed: what was adopted has a former process's until then."""
        self._fell_back = mode is Mode.AUTO and self.mode is Mode.CLSACT
        self._log = structlog.get_logger()
        self.fallbacks = 0
        """Programs that became classic filters because the kernel has no tcx."""
        links.mkdir(parents=True, exist_ok=True)

    def adopt(self) -> int:
        """Learns what a former agent attached, however it did; how many there are. Pins of interfaces that are gone, and of programs that
        are no more, go. What is adopted has the former agent's program until `renew`."""
        for path in list(self._links.iterdir()):
            index, _, name = path.name.partition("-")
            link = Link.adopt(path)
            if link is None:
                continue
            with closing(link):
                if link.ifindex and name in self._programs:
                    self._attached[int(index), name] = Mode.TCX
                else:
                    path.unlink()
        for found in _all_filters():
            if found.priority == HOLD_PRIORITY and found.name in HOLDING.values():
                netlink.drop_filter(found.interface, found.direction, found.priority)
        self._attached |= dict.fromkeys(self._filters(), Mode.CLSACT)
        return len(self._attached)

    def verify(self) -> list[tuple[int, str]]:
        """Forgets what somebody else took away or replaced (`tc qdisc del`, a link detached, a pin removed), so that the next `attach` puts it back;
        (interface index, program) of each. What ended with its interface is none of it: nothing can be put back there."""
        filters = self._filters() if Mode.CLSACT in self._attached.values() else {}
        lost = [key for key, mode in self._attached.items()
                if (self._filter_wrong(key, filters) if mode is Mode.CLSACT else self._link_wrong(key)) and netlink.interface(key[0]) is not None]
        for key in lost:
            self._forget(key)
        return lost

    def behind(self) -> frozenset[int]:
        """Interfaces with programs of others behind ours at their ingress: those do not see what ours sends on."""
        out = set()
        for (index, name), mode in self._attached.items():
            if mode is Mode.CLSACT or self._programs[name].attach_type != TCX_INGRESS:
                continue
            link = Link.adopt(self._pin(index, name))
            if link is None:
                continue
            with closing(link), suppress_gone():
                links = [number for _, number in queried(index, TCX_INGRESS)]
                if link.place[3] in links[:-1]:
                    out.add(index)
        return frozenset(out)

    def _link_wrong(self, key: tuple[int, str]) -> str:
        """What of the link that should be there is not so; "" when all is."""
        index, name = key
        link = Link.adopt(self._pin(index, name))
        if link is None:
            return "its pin is gone"
        with closing(link):
            at, attach_type, program, number = link.place
            if at != index or attach_type != self._programs[name].attach_type:
                return f"its link is at interface {at}, attach type {attach_type}"
            if program != self._numbers.get(key, program):
                return f"its link holds program {program}"
            return "" if (program, number) in queried(index, attach_type) else "the interface runs no such link"

    def _filter_wrong(self, key: tuple[int, str], filters: Mapping[tuple[int, str], Filter]) -> str:
        found = filters.get(key)
        if found is None:
            return "no clsact queueing discipline has the filter in its direction"
        return f"the filter holds program {found.program}" if found.program != self._numbers.get(key, found.program) else ""

    def _read_back(self, index: int, name: str) -> None:
        """OSError when what was just attached is not where it should be; then nothing of it stays."""
        key = index, name
        self._numbers[key] = self._programs[name].number
        classic = self._attached[key] is Mode.CLSACT
        wrong = self._filter_wrong(key, self._filters(index)) if classic else self._link_wrong(key)
        if wrong:
            self._detach(index, name)
            raise OSError(errno.ENOTUNIQ, f"{name} was attached to interface {index}, but {wrong}: somebody else is at work there")

    def _forget(self, key: tuple[int, str]) -> Mode:
        self._numbers.pop(key, None)
        return self._attached.pop(key)

    def _filters(self, index: int = 0) -> dict[tuple[int, str], Filter]:
        """Our classic filters, as the kernel has them, of one interface or of all."""
        return {(found.interface, found.name): found for found in _all_filters(index)
                if found.priority == PRIORITY and found.qdisc == "clsact" and found.name in self._programs
                and found.direction == _direction(self._programs[found.name])}

    def renew(self, after_each: Callable[[], None] = lambda: None) -> None:
        """Puts this process's programs where others are attached. An interface that is gone meanwhile is no failure."""
        for (index, name), mode in self._attached.items():
            after_each()
            if mode is Mode.CLSACT:
                with suppress_gone():
                    self._put_filter(index, name)
                    self._numbers[index, name] = self._programs[name].number
                continue
            link = Link.adopt(self._pin(index, name))
            if link is None:
                continue
            with closing(link):
                with suppress_gone():
                    link.update(self._programs[name])
                    self._numbers[index, name] = self._programs[name].number

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While it lasts the programs that hold TCP stand before those at the pods; whether they do is for Kernel to say."""
        with ExitStack() as stack:
            for (index, name), mode in self._attached.items():
                if name not in HOLDING:
                    continue
                program = self._programs[HOLDING[name]]
                with suppress_gone():
                    if mode is Mode.CLSACT:
                        netlink.put_filter(index, _direction(program), program.fd, program.name, HOLD_PRIORITY)
                        stack.callback(netlink.drop_filter, index, _direction(program), HOLD_PRIORITY)
                    else:
                        stack.enter_context(closing(Link.create(program, index, first=True)))
            yield

    def attached(self) -> dict[int, frozenset[str]]:
        """Interface index -> names of the programs attached, as far as this process knows."""
        out: dict[int, set[str]] = {}
        for index, name in self._attached:
            out.setdefault(index, set()).add(name)
        return {index: frozenset(names) for index, names in out.items()}

    def attach(self, wanted: Wanted) -> Outcome:
        """Attaches what is missing of `wanted`. An interface that fails is reported and the others go on."""
        outcome = Outcome()
        for index, names in wanted.items():
            missing = [name for name in sorted(names) if (index, name) not in self._attached]
            try:
                for name in missing:
                    self._attach(index, name)
            except OSError as error:
                outcome.failed[index] = error
            else:
                if missing:
                    outcome.attached.append(index)
        return outcome

    def detach_others(self, wanted: Wanted) -> int:
        """Detaches what is ours and not in `wanted`; how many programs."""
        others = [(index, name) for index, name in self._attached if name not in wanted.get(index, ())]
        for index, name in others:
            self._detach(index, name)
        return len(others)

    def detach_all(self) -> int:
        """Leaves nothing of ours, nor the queueing disciplines that our filters were put in and nobody else uses; how many programs went."""
        classic = {index for (index, _), mode in self._attached.items() if mode is Mode.CLSACT}
        gone = self.detach_others({})
        for index in classic:
            netlink.drop_clsact(index)
        return gone

    def _attach(self, index: int, name: str) -> None:
        if self.mode is Mode.TCX:
            self._create_link(index, name)
        else:
            self._put_filter(index, name)
        self._read_back(index, name)
        self.fallbacks += self._fell_back

    def _create_link(self, index: int, name: str) -> None:
        pin = self._pin(index, name)
        pin.unlink(missing_ok=True)  # of an interface of the same number that is gone
        link = Link.create(self._programs[name], index)
        try:
            link.pin(pin)
        finally:
            link.close()
        self._attached[index, name] = Mode.TCX

    def _put_filter(self, index: int, name: str) -> None:
        program = self._programs[name]
        netlink.put_filter(index, _direction(program), program.fd, name, PRIORITY)
        self._attached[index, name] = Mode.CLSACT

    def _detach(self, index: int, name: str) -> None:
        if self._forget((index, name)) is Mode.CLSACT:
            netlink.drop_filter(index, _direction(self._programs[name]), PRIORITY)
            return
        link = Link.adopt(self._pin(index, name))
        if link is None:
            return
        with closing(link), suppress_gone():
            link.detach()  # at once: without its pin it would go too, but some time later
        self._pin(index, name).unlink(missing_ok=True)

    def _pin(self, index: int, name: str) -> Path:
        return self._links / f"{index}-{name}"


@contextmanager
def suppress_gone() -> Iterator[None]:
    """An interface may go at any time; that it went is no failure of what was tried on it."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


def _direction(program: Program) -> str:
    return "ingress" if program.attach_type == TCX_INGRESS else "egress"


def _all_filters(index: int = 0) -> Iterator[Filter]:
    """The classic filters of one interface, or of all, whosever they are."""
    for at, qdisc in netlink_node.qdiscs().items():
        if index in (0, at):
            yield from netlink_node.filters(at, qdisc)
