"""One node's agent as main puts it together, on a lab's node, without an API server: what it would be told is
a list, what it reports is kept."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

from wharfinger_api import NodeReportStatus, ServicePortSlice
from wharfinger_dataplane.agent.desired import LocalPod
from wharfinger_dataplane.agent.leave import Leave
from wharfinger_dataplane.agent.namespaces import Namespaces
from wharfinger_dataplane.agent.reflector import Copy
from wharfinger_dataplane.agent.report import About
from wharfinger_dataplane.agent.watcher import NodeReader, Watcher
from wharfinger_dataplane.agent.worker import Sources, Worker
from wharfinger_dataplane.attach import Attacher, Mode
from wharfinger_dataplane.kernel import Kernel

from support.lab import Node, Pod, clear, inside, sh

BOUND_S = 30


class Told:
    """What the API server has told: stands for a Reflector."""

    synced = True

    def __init__(self) -> None:
        self.all: list = []

    def objects(self) -> list:
        return list(self.all)

    def copy(self) -> Copy:
        return Copy(self.all, str(max((piece.version for piece in self.all), default=0)), [])

    def misread(self) -> list[str]:
        return []


class NodeAgent:
    """`pods` and `slices` are what it is told; `round` lets its loop run once."""

    def __init__(self, node: Node, kernel: Kernel, folder: Path, mode: Mode = Mode.AUTO) -> None:
        """`kernel`: as new, and let go of as new; `folder`: files of namespaces are bound in it."""
        self.node, self.events, self._reports = node, [], []
        self._files, self.kernel = folder, kernel
        self.attacher = Attacher(self.kernel.programs, self.kernel.links, mode)
        self._namespaces = Namespaces(self._files)
        self._slices, self._pods = Told(), Told()
        self.reader = NodeReader((), lambda: frozenset({node.address}), self._namespaces)
        nothing = SimpleNamespace(update=lambda *_: None, table_write=lambda *_: None)
        self.worker = Worker(
            node.name,
            About("0", "", mode, self.attacher.mode),
            10.0,
            Sources(self._slices, self._pods, Told(), self._namespaces, self.reader, Told()),
            self.kernel,
            self.attacher,
            SimpleNamespace(pod_gone=lambda *_: None),
            Leave(self.kernel, self.attacher, self._namespaces),
            SimpleNamespace(report=self._reports.append, tell=self.events.append),
            SimpleNamespace(names=nothing, tables=nothing),
            lambda _: None,
        )
        self._watcher = Watcher(
            self._namespaces, self.reader, frozenset, self._wake, self.worker.suspect, self.kernel.outdate
        )
        self.wakes = 0

    def knows(self, pod: Pod, *, injected: bool = True) -> None:
        """The API server tells of a pod, and the container runtime has its namespace."""
        bound = self._files / pod.name
        bound.touch()
        sh(f"mount --bind /run/netns/{pod.name} {bound}")
        self._pods.all.append(
            LocalPod("test", pod.short, f"uid-{pod.short}", (pod.address,), injected, False, False)
        )

    def serves(self, piece: ServicePortSlice) -> None:
        self._slices.all = [piece]

    def round(self) -> NodeReportStatus:
        """One round of its loop; the report that stands then."""
        rounds = self.worker.progress.rounds
        self.reader.changed()
        self.worker.suspect()
        inside(self.node.name, lambda: self._namespaces.look(time.monotonic()))
        self.worker.wake()
        thread = threading.Thread(target=inside, args=(self.node.name, self.worker.run))
        thread.start()
        deadline = time.monotonic() + BOUND_S
        while self.worker.progress.rounds == rounds and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        self.worker.stop()
        thread.join()
        self.worker._stopping = False
        assert self.worker.progress.rounds > rounds
        return self._reports[-1]

    def watch(self) -> None:
        """Its watcher's thread looks on, until `close`."""
        inside(self.node.name, self._watcher.start)
        self._watching = True

    def _wake(self) -> None:
        self.wakes += 1

    def close(self) -> None:
        if getattr(self, "_watching", False):
            self._watcher.stop()
        self._namespaces.close()
        for pin in self.kernel.links.iterdir():
            pin.unlink()
        clear(self.kernel._object.maps)
        for bound in self._files.iterdir():
            sh(f"umount {bound}")
