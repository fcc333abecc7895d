"""A server that is gone says nothing more: its clients on this node are told in its place, also those that only listen.

Rules (docs/architecture.md, "When a server is gone"):
- Gone is what an assignment at rest says: the API server has no such pod any more. A node that is silent, or a pod that is not ready, says
  nothing: behind a partition a connection may go on working, and is let.
- A connection is ended by its client's own stack (SOCK_DESTROY): the application sees ECONNABORTED at once, and nothing is on the wire
  but a RST, as of any socket that is aborted.
- Connections that are still opening are left alone: their SYN is repeated, and finds another server.
- Level-triggered, as everything here: as long as ports rest, each pass ends what still leads to them.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Mapping
from contextlib import closing

import structlog
from wharfinger_api import AssignmentState, ServicePortSlice

from wharfinger_dataplane import _records as records
from wharfinger_dataplane import netlink
from wharfinger_dataplane.agent.flows import FLOWS, PAUSE_S, FlowStore, Record, by_pod
from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.netlink import Connection

Gone = Mapping[int, tuple[frozenset[int], frozenset[int]]]
"""Server's address (pack_v4) -> its service ports at rest, and the scopes (pools) in which nobody has that address any more."""


def gone_servers(slices: Iterable[ServicePortSlice]) -> Gone:
    """The servers whose assignments rest. Pure."""
    resting: dict[str, tuple[set[int], set[int]]] = {}
    serving: dict[str, tuple[set[int], set[int]]] = {}
    for piece in slices:
        for record in piece.spec.assignments:
            ports, scopes = (resting if record.state is AssignmentState.RESTING else serving).setdefault(record.address, (set(), set()))
            ports.update(record.ports)
            scopes.add(piece.spec.scope)
    nobody: tuple[set[int], set[int]] = (set(), set())
    return {records.pack_v4(address): (frozenset(ports - serving.get(address, nobody)[0]), frozenset(scopes - serving.get(address, nobody)[1]))
            for address, (ports, scopes) in resting.items()}


class Ender:
    """Ends this node's connections to servers that are gone. `say` may be called from any thread, `end` from one."""

    def __init__(self, store: FlowStore, namespaces: Namespaces) -> None:
        self._store, self._namespaces = store, namespaces
        self._gone: Gone = {}
        self._able = True
        self._log = structlog.get_logger()
        self.ended = 0
        """Connections ended so far."""

    def say(self, gone: Gone) -> bool:
        """These servers are gone from now on; whether any of it is news."""
        news = any(key not in self._gone or not (ports <= self._gone[key][0] and scopes <= self._gone[key][1])
                   for key, (ports, scopes) in gone.items())
        self._gone = gone
        return news

    def end(self) -> int:
        """One pass: how many connections were ended. OSError when maps or sockets cannot be read."""
        gone = dict(self._gone)
        if not gone or not self._able:
            return 0
        found: list[Record] = []
        for batch in self._store.batches(FLOWS):
            found += records.flows_to(batch, gone)
            time.sleep(PAUSE_S)
        ended = sum(self._end_of_pod(address, connections) for address, connections in by_pod(found).items())
        if ended:
            self._log.info("connections ended: their servers are gone", connections=ended)
        self.ended += ended
        return ended

    def _end_of_pod(self, address: str, connections: list[Connection]) -> int:
        channel = self._namespaces.diag(address)
        if channel is None:
            return 0
        with closing(channel):
            try:
                return sum(netlink.end(channel, connection) for connection in connections)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
        self._able = False
        self._log.warning("this kernel cannot end connections (CONFIG_INET_DIAG_DESTROY): clients of servers that are gone notice when they send")
        return 0
