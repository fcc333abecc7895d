"""The thread that watches the node itself: links come and go, namespaces appear, sidecars ask at the start gate."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Collection, Container
from contextlib import closing

import structlog

from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.agent.surroundings import Surroundings, look
from wharfinger_dataplane.agent.uplinks import uplinks
from wharfinger_dataplane.netlink_node import Changes

YOUNG_LOOK_S = 0.02
LOOK_S = 1.0
FAILED_S = 2.0
READ_S = 5.0


class NodeReader:
    """What of the node decides on packets' ways, read again when the kernel told of a change, and every five seconds."""

    def __init__(self, names: tuple[str, ...], node_addresses: Callable[[], frozenset[str]], namespaces: Namespaces) -> None:
        self._names, self._node_addresses, self._namespaces = names, node_addresses, namespaces
        self._seen = Surroundings()
        self._stale_s = 0.0

    def changed(self) -> None:
        """What was read is not worth much any more."""
        self._stale_s = 0.0

    def surroundings(self) -> Surroundings:
        """The node as last read. OSError when the kernel does not tell."""
        now_s = time.monotonic()
        if now_s >= self._stale_s:
            self._stale_s = now_s + READ_S  # before it is read: what changes meanwhile makes it stale again
            try:
                self._seen = look()
            except OSError:
                self._stale_s = 0.0
                raise
        return self._seen

    def uplinks(self, pods: Collection[int]) -> frozenset[int]:
        """Indexes of the uplinks, whatever else is at them. `pods`: interfaces of pods of ours; those of others are known here. OSError
        when the kernel does not tell."""
        seen = self.surroundings()
        known = {index for namespace in self._namespaces.snapshot() for _, index in namespace.interfaces}
        return uplinks(seen.interfaces.values(), seen.routes, self._names, self._node_addresses(), known.union(pods))


class Watcher:
    """Looks at namespaces whenever the kernel tells of a change, every 20 ms while a pod is starting, and every second at rest. `touched` is
    called when somebody, this process too, changed queueing disciplines or filters; `moved` when routes, rules, links or neighbours changed, so
    that packets may have other ways; `changed` after anything that the agent reads again."""

    def __init__(self, namespaces: Namespaces, reader: NodeReader, claimed: Callable[[], Container[str]],
                 changed: Callable[[], None], touched: Callable[[], None], moved: Callable[[], None]) -> None:
        self._namespaces, self._reader, self._claimed = namespaces, reader, claimed
        self._changed, self._touched, self._moved = changed, touched, moved
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._log = structlog.get_logger()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for its end, so that the namespaces may be closed."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        with closing(Changes()) as changes:
            ready: list = []
            while self._stop not in ready:
                try:
                    if self._namespaces.look(time.monotonic(), self._claimed()):
                        self._changed()
                    wait_s = YOUNG_LOOK_S if self._namespaces.young else LOOK_S
                except OSError as error:
                    self._log.warning("pods' namespaces not read", error=str(error), retry_s=FAILED_S)
                    wait_s = FAILED_S
                ready = select.select([self._stop, *changes.channels], [], [], wait_s)[0]
                told = changes.drain()
                if told.ways:
                    self._moved()
                if told.filters:
                    self._touched()
                if told.node:
                    self._reader.changed()
                    self._changed()
