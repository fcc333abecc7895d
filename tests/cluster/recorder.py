"""Every version of every slice, node report and node from a moment on, as the API server's watches tell them (support.history judges them)."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

from release import wait_for
from support.history import Change
from testbed import Cluster
from testbed.api import UNREACHABLE, Api

KINDS = {"ServicePortSlice": "/apis/wharfinger.io/v1alpha1/serviceportslices", "NodeReport": "/apis/wharfinger.io/v1alpha1/nodereports",
         "Node": "/api/v1/nodes"}
WATCH_S = 3000


class Recorder:
    """A watch each, in threads. A watch that breaks is a gap, and so an error."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = Api(cluster.settings)
        self._changes: list[Change] = []
        self._broken: list[str] = []

    def start(self) -> None:
        for kind, path in KINDS.items():
            listing = self._list(kind)
            for raw in listing["items"]:
                self._changes.append(Change({"kind": kind, **raw}, False, datetime.now(UTC)))
            version = listing["metadata"]["resourceVersion"]
            threading.Thread(target=self._watch, args=(kind, path, version), name=f"recorder of {kind}", daemon=True).start()

    def changes(self) -> list[Change]:
        """All so far: at least up to what a listing tells at this moment."""
        now = {_version(raw) for kind in KINDS for raw in self._list(kind)["items"]}
        wait_for(lambda: self._broken or now <= {_version(change.raw) for change in self._changes}, "the watches to tell what a listing told",
                 seconds=60)
        if self._broken:
            raise AssertionError(f"a watch broke, and with it the history: {self._broken}")
        return list(self._changes)

    def _list(self, kind: str) -> dict:
        status, text = self._api.request("GET", KINDS[kind])
        if status != 200:
            raise AssertionError(f"listing {kind} was answered with {status}: {text}")
        return json.loads(text)

    def _watch(self, kind: str, path: str, version: str) -> None:
        try:
            for event in self._api.lines(f"{path}?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_S}", WATCH_S):
                if event["type"] == "ERROR":
                    self._broken.append(f"{kind}: {event['object']}")
                    return
                self._changes.append(Change({"kind": kind, **event["object"]}, event["type"] == "DELETED", datetime.now(UTC)))
        except (*UNREACHABLE, ValueError) as error:
            self._broken.append(f"{kind}: {error!r}")
            return
        self._broken.append(f"{kind}: the watch ended")


def _version(raw: dict) -> tuple[str, str]:
    return raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]
