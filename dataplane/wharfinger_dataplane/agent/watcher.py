"""The thread that watches the node itself: links come and go, namespaces appear, sidecars ask at the start gate."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Container
from contextlib import closing

import structlog

from wharfinger_dataplane import netlink
from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.agent.uplinks import uplinks

YOUNG_LOOK_S = 0.02
LOOK_S = 1.0
FAILED_S = 2.0
UPLINKS_S = 5.0


class Uplinks:
    """The node's uplinks, read again when links, addresses or routes changed, and every five seconds."""

    def __init__(self, names: tuple[str, ...], node_addresses: Callable[[], frozenset[str]]) -> None:
        self._names, self._node_addresses = names, node_addresses
        self._indexes: frozenset[int] = frozenset()
        self._stale_s = 0.0

    def changed(self) -> None:
        """What was read is not worth much any more."""
        self._stale_s = 0.0

    def indexes(self) -> frozenset[int]:
        """Indexes of the uplinks. OSError when the kernel does not tell."""
        now_s = time.monotonic()
        if now_s >= self._stale_s:
            self._stale_s = now_s + UPLINKS_S
            try:
                self._indexes = uplinks(netlink.interfaces(), netlink.routes(), self._names, self._node_addresses())
            except OSError:
                self._stale_s = 0.0
                raise
        return self._indexes


class Watcher:
    """Looks at namespaces whenever the kernel tells of a change, every 20 ms while a pod is starting, and every second at rest. `touched` is
    called when somebody, this process too, changed queueing disciplines or filters; `changed` after anything."""

    def __init__(self, namespaces: Namespaces, uplinks: Uplinks, claimed: Callable[[], Container[str]],
                 changed: Callable[[], None], touched: Callable[[], None]) -> None:
        self._namespaces, self._uplinks, self._claimed = namespaces, uplinks, claimed
        self._changed, self._touched = changed, touched
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
        with closing(netlink.changes()) as channel:
            ready: list = []
            while self._stop not in ready:
                try:
                    if self._namespaces.look(time.monotonic(), self._claimed()):
                        self._changed()
                    wait_s = YOUNG_LOOK_S if self._namespaces.young else LOOK_S
                except OSError as error:
                    self._log.warning("pods' namespaces not read", error=str(error), retry_s=FAILED_S)
                    wait_s = FAILED_S
                ready = select.select([self._stop, channel], [], [], wait_s)[0]
                if channel in ready:
                    if netlink.drain(channel):
                        self._touched()
                    self._uplinks.changed()
                    self._changed()
