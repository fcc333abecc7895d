"""Pods' network namespaces: which address is behind which interface of the node, and who asks at the start gate.

Rules:
- A namespace is known by its file below /run/netns and its inode: both are reused alone, not together.
- What is known of a namespace does not change once it has settled; one without an address yet is looked at again.
- While a namespace is young, it is asked whether a socket waits at the start gate. Why not wait for the pod's status: the kubelet writes
  the pod's address only when the hook that asks at the gate has returned (docs/architecture.md, "Kubernetes").
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from wharfinger_dataplane import netlink
from wharfinger_dataplane._records import GATE
from wharfinger_dataplane.netlink import Interface

YOUNG_S = 60.0
"""How long a namespace may take to get its interfaces and its sidecar, before looks at it become rare."""
SETTLED_S = 5.0
"""How long after the first address another one (of the other family) may come."""
POD_INTERFACE_KINDS = ("veth",)

Key = tuple[str, int]
"""Name of the file and inode of the namespace."""


@dataclass(frozen=True)
class Namespace:
    """A pod's namespace. `interfaces`: address and index of the host's side; `asks`: a socket was seen waiting at the start gate;
    `number`: what the node's namespace calls it, -1 until that is known; `foreign`: address and kind of interfaces that have no host's side."""

    key: Key
    interfaces: tuple[tuple[str, int], ...] = ()
    asks: bool = False
    number: int = -1
    foreign: tuple[tuple[str, str], ...] = ()


@dataclass
class _Known:
    namespace: Namespace
    seen_s: float
    next_s: float = 0.0  # when to look at its interfaces again
    channel: socket.socket | None = None


def host_sides(inside: Iterable[Interface], number: int, host: Callable[[int], Interface | None]) -> tuple[tuple[str, int], ...]:
    """(address, index of the host's side) of the interfaces of the namespace that the node's calls `number`.

    `host` answers an interface of the node, which must be the other end: indexes alone do not say so, every namespace counts its own.
    """
    found = []
    for interface in inside:
        if interface.kind not in POD_INTERFACE_KINDS or not interface.peer:
            continue
        other = host(interface.peer)
        if other is None or other.kind not in POD_INTERFACE_KINDS or (other.peer, other.peer_namespace) != (interface.index, number):
            continue
        found += [(address, other.index) for address in interface.addresses if not address.startswith("fe80:")]
    return tuple(found)


def foreign_kinds(inside: Iterable[Interface]) -> tuple[tuple[str, str], ...]:
    """(address, kind) of the interfaces of a namespace that are no end of a veth: macvlan, ipvlan, netkit, or hardware ("")."""
    return tuple((address, interface.kind) for interface in inside if interface.kind not in POD_INTERFACE_KINDS and interface.name != "lo"
                 for address in interface.addresses if not address.startswith("fe80:"))


def next_look_s(now_s: float, age_s: float, found: bool) -> float:
    """When to look again at the interfaces of a namespace known for `age_s` seconds, of which an address was found or was not."""
    if found:
        return now_s + 0.5 if age_s < SETTLED_S else math.inf
    return now_s if age_s < YOUNG_S else now_s + 10.0


class Namespaces:
    """What is in `directory`. Not for more than one thread at a time; `snapshot` alone may be called from any."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[Key, _Known] = {}
        self._snapshot: tuple[Namespace, ...] = ()
        self._looked_s: float | None = None

    def snapshot(self) -> tuple[Namespace, ...]:
        """The namespaces as last looked at."""
        return self._snapshot

    def look(self, now_s: float, claimed: Container[str] = ()) -> bool:
        """Looks for namespaces that came and went, and at young ones; whether anything changed. `claimed`: addresses of which the API
        server says whose they are, so that their gate needs no watching.

        OSError when the directory cannot be read."""
        present = self._present()
        for key in [key for key in self._known if key not in present]:
            self._close(self._known.pop(key))
        for key in present:
            known = self._known.setdefault(key, _Known(Namespace(key), now_s))
            if now_s >= known.next_s:
                self._find_interfaces(known, now_s)
            unclaimed = any(address not in claimed for address, _ in known.namespace.interfaces)
            self._look_at_gate(known, wanted=unclaimed and now_s - known.seen_s < YOUNG_S)
        self._looked_s = now_s
        before, self._snapshot = self._snapshot, tuple(known.namespace for known in self._known.values())
        return before != self._snapshot

    @property
    def looked(self) -> bool:
        """Whether all of them were looked at, once at least."""
        return self._looked_s is not None

    @property
    def young(self) -> bool:
        """Whether a namespace is so young that the next look should be soon."""
        now_s = self._looked_s or 0.0
        return any(known.channel is not None or (not (known.namespace.interfaces or known.namespace.foreign) and now_s - known.seen_s < YOUNG_S)
                   for known in self._known.values())

    def diag(self, address: str) -> socket.socket | None:
        """A sock_diag socket in the namespace that has `address`, for the caller to close; None when there is none."""
        for namespace in self._snapshot:
            if any(address == found for found, _ in namespace.interfaces):
                return self._enter(namespace.key, netlink.diag_socket)
        return None

    def close(self) -> None:
        """Lets go of every namespace."""
        for known in self._known.values():
            self._close(known)

    def _present(self) -> set[Key]:
        with os.scandir(self._directory) as entries:
            found = set()
            for entry in entries:
                try:
                    found.add((entry.name, entry.stat(follow_symlinks=False).st_ino))
                except FileNotFoundError:  # went while we looked
                    continue
        return found

    def _find_interfaces(self, known: _Known, now_s: float) -> None:
        inside = self._enter(known.namespace.key, netlink.interfaces) or ()
        number = self._open(known.namespace.key, netlink.namespace_number)
        found = host_sides(inside, -1 if number is None else number, netlink.interface) or known.namespace.interfaces
        foreign = foreign_kinds(inside)
        known.namespace = replace(known.namespace, interfaces=found, foreign=foreign,
                                  number=known.namespace.number if number is None else number)
        known.next_s = next_look_s(now_s, now_s - known.seen_s, bool(found or foreign))

    def _look_at_gate(self, known: _Known, *, wanted: bool) -> None:
        if not wanted or known.namespace.asks or not known.namespace.interfaces:
            self._close(known)
            return
        if known.channel is None:
            known.channel = self._enter(known.namespace.key, netlink.diag_socket)
        if known.channel is not None and netlink.asks(known.channel, *GATE):
            known.namespace = replace(known.namespace, asks=True)
            self._close(known)

    def _enter(self, key: Key, look: Callable[[], netlink.T]) -> netlink.T | None:
        """What `look` answers in the namespace, or None when there is no such namespace (any more)."""
        return self._open(key, lambda fd: netlink.inside(fd, look))

    def _open(self, key: Key, look: Callable[[int], netlink.T]) -> netlink.T | None:
        """What `look` answers of a descriptor of the namespace, or None as above."""
        fd = netlink.open_namespace(self._directory / key[0])
        if fd is None:
            return None
        try:
            return look(fd) if os.fstat(fd).st_ino == key[1] else None
        finally:
            os.close(fd)

    @staticmethod
    def _close(known: _Known) -> None:
        if known.channel is not None:
            known.channel.close()
            known.channel = None
