"""Programs at this node's interfaces, and what the programs are told of these: what a round of the loop does
about them, in this order.

Rules:
- A pod is not entered, nor an uplink sent to directly, before its programs are attached and read back; and
  nothing is detached while packets may still be sent to it.
- When what the programs are told of interfaces changes, connections look their ways up again (a new
  generation), and people are told what follows.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Protocol

import structlog
from wharfinger_api import Effect, Finding

from wharfinger_dataplane._records import SETTING_LEFT_TO_STACK
from wharfinger_dataplane.agent.surroundings import Surroundings
from wharfinger_dataplane.agent.ways import open_uplinks, refusals, ways
from wharfinger_dataplane.attach import POD_PROGRAMS, UPLINK_PROGRAMS, Attacher
from wharfinger_dataplane.kernel import Kernel
from wharfinger_dataplane.tables import Tables

VERIFY_S = 5.0
NO_PICK_UP = (
    "aware connections by the node's stack stall, for its connection tracking takes none in the middle: "
    "their third packet goes to another port. Set net.netfilter.nf_conntrack_tcp_loose to 1, the default"
)


class Reader(Protocol):
    """Who reads the node: watcher.NodeReader."""

    def surroundings(self) -> Surroundings: ...
    def uplinks(self, pods: Collection[int]) -> frozenset[int]: ...


class Placement:
    """`begin` a round, then the other steps. `findings`: what people are to be told of the node since the
    last round."""

    def __init__(self, reader: Reader, attacher: Attacher, kernel: Kernel, tables: Tables) -> None:
        self._reader, self._attacher, self._kernel, self._tables = reader, attacher, kernel, tables
        self._node: Surroundings | None = None
        self._pods: frozenset[int] = frozenset()
        self._uplinks: frozenset[int] = frozenset()
        self._refusals: dict[int, Finding] = {}
        self._of_uplinks: tuple[Finding, ...] = ()
        self._of_ways: tuple[Finding, ...] = ()
        self._behind: frozenset[int] = frozenset()
        self._verify_s = 0.0
        self._log = structlog.get_logger()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those about interfaces and the node; a pod's refusal is told with the pod."""
        return *self._of_uplinks, *self._of_ways

    def suspect(self) -> None:
        """Somebody may have detached programs: the next round looks."""
        self._verify_s = 0.0

    def begin(self, pods: Collection[int], faults: list[str]) -> None:
        """Finds out where programs are, and where they may be; `pods`: interfaces of the pods that shall have
        them."""
        self._verify(faults)
        attached = self._attacher.attached()
        try:
            self._node = self._reader.surroundings()
            self._uplinks, self._of_uplinks = open_uplinks(self._node, self._reader.uplinks(pods))
        except OSError as error:  # what is attached stays, and the programs go on with what they were told
            faults.append(f"the node's uplinks are not known: {error}")
            self._uplinks = frozenset(index for index, names in attached.items() if names >= UPLINK_PROGRAMS)
        self._refusals = refusals(self._node, pods, attached) if self._node else {}
        self._pods = frozenset(pods) - self._refusals.keys()

    def refusal(self, index: int) -> Finding | None:
        """Why a pod's interface gets no program, if it gets none."""
        return self._refusals.get(index)

    def attach_pod(self, index: int) -> OSError | None:
        """Attaches what is missing at a pod's interface; what went wrong."""
        return self._attacher.attach({index: POD_PROGRAMS}).failed.get(index)

    def attach_uplinks(self, faults: list[str]) -> None:
        for index, failure in self._attacher.attach(
            dict.fromkeys(self._uplinks, UPLINK_PROGRAMS)
        ).failed.items():
            faults.append(f"uplink {index}: {failure}")
            self._log.warning("uplink not attached", interface=index, error=str(failure))

    def put_ways(self, faults: list[str]) -> int:
        """Tells the programs what holds of interfaces that bear them; how much of that changed."""
        if self._node is None:
            return 0
        wanted = self._wanted()
        attached = {
            index: names & wanted[index]
            for index, names in self._attacher.attached().items()
            if index in wanted
        }
        made = ways(self._node, attached, self._behind)
        try:
            changes = self._tables.put_interfaces(made.bits, made.incoming) + self._kernel.set(
                SETTING_LEFT_TO_STACK, int(made.left_to_stack)
            )
            if changes:
                self._kernel.outdate()
        except OSError as error:
            faults.append(f"what holds of interfaces is not written: {error}")
            return 0
        if not self._node.picks_up and any(
            each.effect is Effect.STACK for each in (*self._of_uplinks, *made.findings)
        ):
            faults.append(NO_PICK_UP)
        if made.findings != self._of_ways:
            self._of_ways = made.findings
            self._log.info(
                "ways changed",
                left_to_stack=made.left_to_stack,
                findings=[f"{found.where}: {found.reason}" for found in made.findings],
            )
        return changes

    def detach_others(self, faults: list[str]) -> None:
        """Detaches what nobody needs. A pod whose interface could not be attached to is no reason to detach
        from it."""
        try:
            detached = self._attacher.detach_others(self._wanted())
        except OSError as error:
            faults.append(f"detaching: {error}")
            return
        if detached:
            self._log.info("detached", programs=detached)

    def _wanted(self) -> dict[int, frozenset[str]]:
        """Which programs each interface shall bear: a pod's that is named as an uplink, those of both."""
        nothing: frozenset[str] = frozenset()
        return {
            index: (POD_PROGRAMS if index in self._pods else nothing)
            | (UPLINK_PROGRAMS if index in self._uplinks else nothing)
            for index in self._pods | self._uplinks
        }

    def _verify(self, faults: list[str]) -> None:
        """Finds out what of ours somebody else detached. The kernel tells of filters (`suspect`), not of
        links."""
        if time.monotonic() < self._verify_s:
            return
        self._verify_s = time.monotonic() + VERIFY_S
        try:
            lost = self._attacher.verify()
            self._behind = self._attacher.behind()
        except OSError as error:
            faults.append(f"what is attached is not known: {error}")
            return
        if lost:
            self._log.warning(
                "programs were detached by somebody else: attaching them again",
                programs=[f"{name} at {index}" for index, name in lost],
            )
