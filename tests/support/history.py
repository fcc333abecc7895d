"""Judges a history of assignments: every version of every slice and node report, in the API server's own order.

Rules (docs/protocol.md, invariant 5; docs/architecture.md, "Make before break"). On a virtual address, and on a server's own address:
- A number belongs to one server at a time, and stands in one slice.
- It is taken from a server only by way of Resting, by a write of its own, and when every node that ever reported has acknowledged that it
  rests, the silent ones too.
- It is given to another only when its rest time is over.
- What was in a slice that was deleted rests likewise, and until no node's report names that slice.
Pure: the caller watches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

DEFAULT_REST_S = 60.0
CLOCKS = timedelta(seconds=1)
"""How much later than the operator an onlooker may see a deletion."""

Identity = tuple[str, str, str]
"""Server, unique id of its pod, address."""
Number = tuple[str, str, int]
"""`virtual` or `server`, an address, a port."""


@dataclass(frozen=True)
class Change:
    """One event of a watch: a version of an object, or its deletion, and when it was seen."""

    raw: Mapping[str, Any]
    deleted: bool
    seen: datetime

    @property
    def revision(self) -> int:
        """Where in the API server's order it stands, among objects of all kinds."""
        return int(self.raw["metadata"]["resourceVersion"])


@dataclass
class Hold:
    """Who has a number, or had it last."""

    identity: Identity
    piece: str
    state: str
    since: datetime
    resting: int = 0
    """The revision at which it came to rest, or its slice was deleted."""
    removed: bool = False
    deleted: bool = False
    rest: timedelta = timedelta(seconds=DEFAULT_REST_S)


@dataclass
class Verdict:
    """`faults` in words. `given`: how many numbers were given, `again`: how many of them had been another's before."""

    faults: list[str] = field(default_factory=list)
    given: int = 0
    again: int = 0


def judge(history: Iterable[Change], rest_s: Mapping[str, float] | None = None) -> Verdict:
    """The verdict on ServicePortSlices, NodeReports and Nodes. `rest_s`: pool's name -> its rest time, else DEFAULT_REST_S."""
    court = _Court(rest_s or {})
    for change in sorted(history, key=lambda change: change.revision):
        {"ServicePortSlice": court.piece, "NodeReport": court.report, "Node": court.node}[change.raw["kind"]](change)
    return court.verdict


class _Court:
    def __init__(self, rest_s: Mapping[str, float]) -> None:
        self.verdict = Verdict()
        self._rest_s = rest_s
        self._holds: dict[Number, Hold] = {}
        self._reports: dict[str, list[tuple[int, dict[str, int]]]] = {}
        self._gone_nodes: set[str] = set()

    def node(self, change: Change) -> None:
        (self._gone_nodes.add if change.deleted else self._gone_nodes.discard)(change.raw["metadata"]["name"])

    def report(self, change: Change) -> None:
        node = change.raw["metadata"]["name"]
        if change.deleted:
            self._reports.pop(node, None)
        else:
            slices = (change.raw.get("status") or {}).get("slices") or {}
            exceptions = {entry["uid"]: int(entry.get("version") or -1) for entry in slices.get("except") or ()}
            self._reports.setdefault(node, []).append((int(slices.get("version", 0)), exceptions))

    def piece(self, change: Change) -> None:
        metadata, spec = change.raw["metadata"], change.raw["spec"]
        uid, where = metadata["uid"], f"{metadata['namespace']}/{metadata['name']} at revision {change.revision}"
        held: dict[Number, dict] = {}
        for record in () if change.deleted else spec.get("assignments") or ():
            for number in _numbers(spec, record):
                if number in held:
                    self._fault(where, number, f"given to {held[number]['server']} and to {record['server']} in one slice")
                held[number] = record
        for number, hold in self._holds.items():
            if hold.piece == uid and not hold.removed and number not in held:
                self._removed(where, number, hold, change)
        for number, record in held.items():
            self._held(where, number, record, change, timedelta(seconds=self._rest_s.get(spec["pool"]["name"], DEFAULT_REST_S)))

    def _removed(self, where: str, number: Number, hold: Hold, change: Change) -> None:
        hold.removed, whose = True, f"taken from {hold.identity[0]} ({hold.identity[1]}) "
        if change.deleted:
            hold.deleted, hold.since, hold.resting = True, change.seen, change.revision
        elif hold.state != "Resting":
            self._fault(where, number, f"{whose}while it was {hold.state}")
        else:
            for node in self._holders():
                if not any(exceptions.get(hold.piece, version) >= hold.resting for version, exceptions in self._reports[node]):
                    self._fault(where, number, f"{whose}but {node} has not acknowledged that it rests")

    def _holders(self) -> list[str]:
        return sorted(self._reports.keys() - self._gone_nodes)

    def _held(self, where: str, number: Number, record: dict, change: Change, rest: timedelta) -> None:
        identity = record["server"], record.get("podUID") or "", record["address"]
        since, uid, state = datetime.fromisoformat(record["since"]), change.raw["metadata"]["uid"], record["state"]
        hold = self._holds.get(number)
        resting = change.revision if state == "Resting" else 0
        if hold is None or hold.identity != identity:
            self.verdict.given += number[0] == "virtual"
            if hold is not None:
                self.verdict.again += number[0] == "virtual"
                self._taken(where, number, hold, identity, since)
        elif hold.piece == uid and hold.state == "Resting" and resting:
            resting = hold.resting
        elif hold.piece != uid and not hold.removed:
            self._fault(where, number, f"of {identity[0]} stands in two slices")
        self._holds[number] = Hold(identity, uid, state, since, resting, rest=rest)

    def _taken(self, where: str, number: Number, hold: Hold, identity: Identity, since: datetime) -> None:
        """Another has a number that `hold` is about."""
        whose = f"given to {identity[0]} ({identity[1]}), "
        former = f"{hold.identity[0]} ({hold.identity[1]})"
        if not hold.removed:
            self._fault(where, number, whose + f"which {former} has, {hold.state}")
            return
        over = hold.since + hold.rest - (CLOCKS if hold.deleted else timedelta(0))
        if since < over:
            self._fault(where, number, whose + f"at {since}, but {former}'s rest ends at {over}")
        for node in self._holders() if hold.deleted else ():
            version, exceptions = self._reports[node][-1]
            if hold.piece in exceptions or version < hold.resting:
                self._fault(where, number, whose + f"but {node} still has the slice of {former}")

    def _fault(self, where: str, number: Number, words: str) -> None:
        self.verdict.faults.append(f"{where}: port {number[2]} of {number[0]} address {number[1]} is {words}")


def _numbers(spec: Mapping[str, Any], record: Mapping[str, Any]) -> list[Number]:
    ports = [port for target in record.get("targets") or () for port in target["servicePorts"]]
    return [(axis, address, port) for port in ports
            for axis, address in (*(("virtual", address) for address in spec["virtualAddresses"]), ("server", record["address"]))]
