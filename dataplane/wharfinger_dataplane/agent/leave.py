"""The way out of a node, when Wharfinger is taken off the cluster (docs/architecture.md, "Uninstall").

Rules:
- From the marker on no virtual address is in the tables: new connections are unaware, and those that are open go on.
- The node is left when no aware connection has been open for a moment, or when the marker's grace is over, counted from when this
  process first saw the marker. What is open then is ended at both ends, with RST.
- Nothing stays: no program, no map, no pin. Only then does the node's report say so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog
from wharfinger_api import DETACHED, GRACE_KEY, Condition, ServicePortSlice

from wharfinger_dataplane import _records as records
from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import Batch
from wharfinger_dataplane.agent.flows import FLOWS, Record, by_pod
from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.agent.reflector import Misread
from wharfinger_dataplane.attach import Attacher

QUIET_S = 2.0
"""How long no aware connection must have been open: handshakes that were under way have then made their entries."""
RESETS_S = 0.3
"""For the RSTs of connections that were ended here to pass the programs, here and at the other end."""


class PinnedMaps(Protocol):
    """What of `Kernel` is needed here."""

    def batches(self, table: str) -> Iterator[Batch]: ...
    def unpin(self) -> None: ...


@dataclass(frozen=True)
class Marker:
    """The order to leave. `grace_s`: how long open connections have at the most."""

    grace_s: float


def read_marker(raw: Mapping[str, Any]) -> Marker:
    """The marker from its ConfigMap. Misread when its grace is not a number of seconds."""
    text = (raw.get("data") or {}).get(GRACE_KEY, "")
    try:
        grace_s = float(text)
    except ValueError as error:
        raise Misread(f"ConfigMap {raw['metadata']['name']}: data.{GRACE_KEY} is {text!r}, must be a number of seconds") from error
    return Marker(max(0.0, grace_s))


def withdrawn(piece: ServicePortSlice) -> ServicePortSlice:
    """The slice without its virtual addresses: no new connection is made by it, and its servers' ports work on."""
    return piece.model_copy(update={"spec": piece.spec.model_copy(update={"virtual_addresses": ()})})


class Leave:
    """One agent's leave. `step` again and again once tables are withdrawn, until `left`."""

    def __init__(self, maps: PinnedMaps, attacher: Attacher, namespaces: Namespaces) -> None:
        self._maps, self._attacher, self._namespaces = maps, attacher, namespaces
        self._since_s: float | None = None
        self._quiet_since_s: float | None = None
        self._log = structlog.get_logger()
        self.left = False
        self.condition: Condition | None = None
        """What the node's report shall say; None before the marker."""

    def step(self, marker: Marker, now_s: float) -> None:
        """One look, at `now_s` of the monotonic clock. OSError: something could not be removed; the next step goes on with it."""
        if self._since_s is None:
            self._since_s = now_s
            self._tell("False", "Draining", f"New connections are unaware; those that are open have {marker.grace_s:.0f} s.")
        still_open = self._open()
        if still_open:
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        quiet = self._quiet_since_s is not None and now_s - self._quiet_since_s >= QUIET_S
        if quiet or now_s - self._since_s >= marker.grace_s:
            self._go(still_open)

    def _go(self, still_open: list[Record]) -> None:
        ended, failures = self._end(still_open)
        programs = self._attacher.detach_all()
        self._maps.unpin()
        self.left = True
        words = "No aware connection was open." if not still_open else (
            f"{len(still_open)} ends of aware connections were open when the grace was over; {ended} were ended with RST.")
        if failures:
            words += " Others end when they are next used, or by their own time-out: " + "; ".join(sorted(failures)[:3])
        self._tell("True", "Detached", f"{words} Nothing is attached or pinned any more.")
        self._log.info("left", programs=programs)

    def _open(self) -> list[Record]:
        return [record for batch in self._maps.batches(FLOWS) for record in records.open_flows(batch)]

    def _end(self, still_open: list[Record]) -> tuple[int, set[str]]:
        """Ends these connections' sockets of this node; how many, and what kept the others."""
        ended, failures = 0, set()
        for address, connections in by_pod(still_open).items():
            try:
                channel = self._namespaces.diag(address)
                if channel is None:
                    continue  # the pod is gone, and its sockets with it
                with closing(channel):
                    ended += sum(netlink.end(channel, connection) for connection in connections)
            except OSError as error:
                failures.add(f"{address}: {error}")
        if ended:
            time.sleep(RESETS_S)
        return ended, failures

    def _tell(self, status: str, reason: str, message: str) -> None:
        self._log.info("leaving", stage=reason, message=message)
        self.condition = Condition(type=DETACHED, status=status, reason=reason, message=message, last_transition_time=datetime.now(UTC))
