"""From everything seen to everything wanted, planning again only what a change could touch.

Rules: pools that could dispute a number are one group and are planned together, other pools apart from them; so a group's plan follows from
what its view read, and stands until some of that changes or its time comes. What is wanted depends on the snapshot and the moment alone: a
planner that followed every change and one made just now say the same (tests/unit/operator/test_planner.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from .conflicts import age
from .difference import difference
from .index import Fact, Index
from .plan import Plan, anchors, plan_group
from .records import Key
from .resolve import Resolved, resolve
from .snapshot import Snapshot
from .view import Nodes, View

GRAIN = timedelta(milliseconds=10)
"""Looks are this much late rather than a moment too early."""

Reader = TypeVar("Reader", bound=Hashable)


def plan(snapshot: Snapshot, now: datetime) -> Plan:
    """What should stand in the API, given all that is seen at `now`."""
    return Planner(snapshot).plan(now)


class Readers(Generic[Reader]):
    """Who read which facts."""

    def __init__(self) -> None:
        self._of: dict[Fact, set[Reader]] = defaultdict(set)
        self._reads: dict[Reader, set[Fact]] = {}

    def note(self, reader: Reader, reads: set[Fact]) -> None:
        """`reader` depends on these facts, and on no others any more."""
        before = self._reads.get(reader, set())
        for fact in before - reads:
            self._of[fact].discard(reader)
            if not self._of[fact]:
                del self._of[fact]
        for fact in reads - before:
            self._of[fact].add(reader)
        if reads:
            self._reads[reader] = reads
        else:
            self._reads.pop(reader, None)

    def of(self, facts: Iterable[Fact]) -> set[Reader]:
        """Those that read one of the facts."""
        return {reader for fact in facts for reader in self._of.get(fact, ())}


@dataclass(eq=False, slots=True)
class Group:
    """Names planned together, and what came of it. `until`: when time alone may change that; `timely`: at any time. `open`: not all stands."""

    keys: frozenset[Key]
    planned: Plan = field(default_factory=Plan)
    until: datetime | None = None
    timely: bool = False
    open: bool = False


class Planner:
    """Plans a snapshot again and again. `see` must be told of each change (Snapshot.follower); `index` is kept up by it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.index = Index(snapshot)
        self._nodes: Nodes | None = None
        self._resolved: dict[Key, Resolved] = {}
        self._anchors: dict[Key, frozenset[str]] = {}
        self._at: dict[str, set[Key]] = defaultdict(set)
        self._until: dict[Key, datetime] = {}
        self._groups: dict[Key, Group] = {}
        self._resolving: Readers[Key] = Readers()
        self._planning: Readers[Group] = Readers()

    def see(self, kind: str, key: Key, old: Any, new: Any) -> None:
        """A change of the snapshot."""
        self.index.change(kind, key, old, new)

    def plan(self, now: datetime) -> Plan:
        """What is wanted of all groups that were planned again or that do not stand yet; of a new planner, everything."""
        nodes = Nodes(self._snapshot, now)
        facts, self.index.touched = self.index.touched, set()
        facts |= self._changed_nodes(nodes)
        changed = {(fact[1], fact[2]) for fact in facts if fact[0] in ("pool", "redirects")} | self._resolving.of(facts)
        changed |= {key for key, moment in self._until.items() if moment <= now}
        due = self._regroup(changed, nodes, now)
        groups = set(self._groups.values())
        due |= self._planning.of(facts) & groups
        due |= {group for group in groups if group.timely or (group.until is not None and group.until <= now)}
        for group in due:
            self._plan(group, nodes, now)
        told = [group for group in groups if group in due or group.open]
        return joined([group.planned for group in sorted(told, key=self._age)], self._look_again(groups, nodes, now))

    def everything(self, now: datetime) -> Plan:
        """What is wanted of all groups, as last planned."""
        groups = set(self._groups.values())
        return joined([group.planned for group in sorted(groups, key=self._age)], self._look_again(groups, Nodes(self._snapshot, now), now))

    def _changed_nodes(self, nodes: Nodes) -> set[Fact]:
        before, self._nodes = self._nodes, nodes
        facts: set[Fact] = set()
        if before is None or before.live != nodes.live:
            facts.add(("live",))
        if before is None or before.holders != nodes.holders:
            facts.add(("holders",))
        return facts

    # groups

    def _regroup(self, changed: set[Key], nodes: Nodes, now: datetime) -> set[Group]:
        """Resolves these names anew and groups what that moved; the groups that are to be planned again."""
        due: set[Group] = set()
        loose: set[Key] = set()
        for key in changed:
            before = self._anchors.get(key)
            self._resolve(key, nodes, now)
            if before is not None and before == self._anchors.get(key):
                due.add(self._groups[key])
            else:
                loose.add(key)
        while loose:
            members, left = self._together(loose.pop()), set[Key]()
            for former in {self._groups[key] for key in members if key in self._groups}:
                left |= former.keys - members
                self._dissolve(former)
                due.discard(former)
            loose = (loose | left) - members
            if members := frozenset(key for key in members if key in self._anchors):
                group = Group(members)
                self._groups.update(dict.fromkeys(members, group))
                due.add(group)
        return due

    def _resolve(self, key: Key, nodes: Nodes, now: datetime) -> None:
        view = View(self.index, nodes, now)
        pool = view.pool(key)
        found: frozenset[str] | None = None
        self._resolved.pop(key, None)
        if pool is not None:
            self._resolved[key] = resolve(pool, view)
            found = anchors(self._resolved[key], view)
        elif view.redirects(key):
            found = frozenset()
        for anchor in self._anchors.pop(key, frozenset()) - (found or frozenset()):
            self._at[anchor].discard(key)
            if not self._at[anchor]:
                del self._at[anchor]
        if found is not None:
            self._anchors[key] = found
            for anchor in found:
                self._at[anchor].add(key)
        self._resolving.note(key, view.reads if found is not None else set())
        until = now if view.timely else view.until
        self._until.pop(key, None)
        if found is not None and until is not None:
            self._until[key] = until

    def _together(self, key: Key) -> set[Key]:
        """`key`, and all names that are connected to it by anchors."""
        found, ahead = {key}, [key]
        while ahead:
            for anchor in self._anchors.get(ahead.pop(), ()):
                ahead += self._at[anchor] - found
                found |= self._at[anchor]
        return found

    def _dissolve(self, group: Group) -> None:
        self._planning.note(group, set())
        for key in group.keys:
            self._groups.pop(key, None)

    # plans

    def _plan(self, group: Group, nodes: Nodes, now: datetime) -> None:
        view = View(self.index, nodes, now)
        group.planned = plan_group(group.keys, [self._resolved[key] for key in group.keys if key in self._resolved], view)
        group.until, group.timely, group.open = view.until, view.timely, bool(difference(group.planned))
        self._planning.note(group, view.reads)

    def _age(self, group: Group) -> Any:
        pools = [age(self._resolved[key].pool) for key in group.keys if key in self._resolved]
        return (0, min(pools)) if pools else (1, min(group.keys))

    def _look_again(self, groups: Iterable[Group], nodes: Nodes, now: datetime) -> datetime | None:
        """The next moment at which a rest time or an agent's Lease runs out."""
        moments = [agent.renewed + timedelta(seconds=agent.duration) for node, agent in self._snapshot.agents.items() if node in nodes.live]
        moments += [group.until for group in groups if group.until is not None]
        moments += self._until.values()
        return min((moment + GRAIN for moment in moments if moment + GRAIN > now), default=None)


def joined(plans: Iterable[Plan], look_again: datetime | None) -> Plan:
    """Several groups' plans as one."""
    plans = list(plans)
    return Plan(tuple(item for plan in plans for item in plan.slices), tuple(piece for plan in plans for piece in plan.superfluous),
                tuple(item for plan in plans for item in plan.statuses), tuple(item for plan in plans for item in plan.events), look_again)
