"""A copy of one collection of the API server's objects, kept by list and watch.

Rules (Kubernetes documentation, "Efficient detection of changes"):
- List once, watch from the list's resource version; every event and bookmark moves the version on.
- A watch that ends is taken up at the last version. 410 Gone means: list again.
- The copy stays as it was while the server is away, until the next list replaces it as a whole.
- Failures back off from 0.2 s to 10 s, with jitter, so that a server that returns is not overrun by every node at once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urlencode

import structlog

from wharfinger_dataplane.agent.cluster import Cluster, Json, Refused, Unreachable

T = TypeVar("T")
WATCH_S = 300
SILENCE_S = 90.0
"""A watch without even a bookmark for so long is begun anew: something on the way may have forgotten it."""
BACKOFF_S = (0.2, 10.0)
PAUSE_S = 0.05
"""Between a watch that ended as it should and the next."""
PAGE = 500
GONE = 410


class Misread(Exception):
    """An object does not have the shape that it should; the message says which and how."""


@dataclass(frozen=True)
class Copy(Generic[T]):
    """The collection as of resource version `version`, that of its last change; `misread`: metadata of those that were not understood, whose
    former version, if there was one, is among the objects."""

    objects: list[T]
    version: str
    misread: list[Json]


class Reflector(Generic[T]):
    """`read` turns a raw object into what is kept, or raises Misread: then the object's former version stays, if there was one, and
    `misread` says so. `changed` is called, in the reflector's own thread, after each change of the copy."""

    def __init__(self, cluster: Cluster, path: str, query: dict[str, str | int], read: Callable[[Json], T],
                 changed: Callable[[], None]) -> None:
        self._cluster, self._path, self._query, self._read, self._changed = cluster, path, query, read, changed
        self._objects: dict[str, T] = {}
        self._misread: dict[str, tuple[str, Json]] = {}
        self._version = self._changed_at = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._synced = threading.Event()
        self._log = structlog.get_logger().bind(watch=path)

    @property
    def synced(self) -> bool:
        """Whether the collection was listed at least once."""
        return self._synced.is_set()

    def objects(self) -> list[T]:
        """The copy, now."""
        with self._lock:
            return list(self._objects.values())

    def copy(self) -> Copy[T]:
        """The copy, now, and what it is a copy of."""
        with self._lock:
            return Copy(list(self._objects.values()), self._changed_at, [metadata for _, metadata in self._misread.values()])

    def misread(self) -> list[str]:
        """What is wrong with objects that were not understood, in words."""
        with self._lock:
            return [words for words, _ in self._misread.values()]

    def start(self) -> None:
        """Begins, in a thread of its own (a daemon: it may be waiting for the server when the process ends)."""
        threading.Thread(target=self._run, name=f"watch {self._path}", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s * random.uniform(0.5, 1.0)):
            try:
                if not self._version:
                    self._list()
                self._watch()
                wait_s = PAUSE_S
            except (Refused, Unreachable) as error:
                if isinstance(error, Refused) and error.status == GONE:
                    self._version = ""
                    wait_s = 0.0
                    continue
                wait_s = min(max(wait_s * 2, BACKOFF_S[0]), BACKOFF_S[1])
                self._log.warning("watch failed", error=str(error), retry_s=wait_s)

    def _list(self) -> None:
        found: dict[str, T] = {}
        misread: dict[str, tuple[str, Json]] = {}
        query = {**self._query, "limit": PAGE}
        while True:
            page = self._cluster.request("GET", f"{self._path}?{urlencode(query)}")
            kind = {"apiVersion": page.get("apiVersion", ""), "kind": str(page.get("kind", "")).removesuffix("List")}
            for raw in page.get("items") or ():
                self._keep(found, misread, {**kind, **raw})
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        with self._lock:
            self._objects, self._misread = found, misread
            self._version = self._changed_at = page["metadata"]["resourceVersion"]
        self._synced.set()
        self._changed()

    def _watch(self) -> None:
        seconds = int(WATCH_S * random.uniform(0.8, 1.0))
        query = {**self._query, "watch": 1, "allowWatchBookmarks": "true", "resourceVersion": self._version, "timeoutSeconds": seconds}
        for event in self._cluster.stream(self._path, query, SILENCE_S):
            if self._stop.is_set():
                return
            self.take(event["type"], event["object"])

    def take(self, kind: str, raw: Json) -> None:
        """One event of a watch. Refused when it is the server's word that it cannot go on."""
        if kind == "ERROR":
            raise Refused(int(raw.get("code") or 500), f"watch of {self._path}: {raw.get('message', raw)}")
        self._version = raw["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        with self._lock:
            self._changed_at = self._version
            if kind == "DELETED":
                self._objects.pop(_key(raw), None)
                self._misread.pop(_key(raw), None)
            else:
                self._keep(self._objects, self._misread, raw)
        self._changed()

    def _keep(self, into: dict[str, T], misread: dict[str, tuple[str, Json]], raw: Json) -> None:
        key = _key(raw)
        try:
            into[key] = self._read(raw)
            misread.pop(key, None)
        except Misread as error:
            self._log.error("object not understood", error=str(error))
            misread[key] = str(error), raw["metadata"]
            if key in self._objects:
                into[key] = self._objects[key]


def _key(raw: Json) -> str:
    metadata = raw["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
