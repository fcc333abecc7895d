"""One cluster: bringing it up, using it, ending it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from . import builds, certificates, cgroups, containers, controlplane, network, node, packages
from .api import UNREACHABLE, Api
from .cache import Durations, locked
from .errors import ClusterError, SetupError
from .images import Images
from .processes import Processes
from .progress import Reporter, tail
from .settings import PACKAGES, NodeSettings, Settings

API_WITHIN_S = 60.0
NODES_WITHIN_S = 120.0
WELL_WITHIN_S = 30.0
"""How long a cluster whose processes all run may take to answer that its nodes are Ready, on a busy machine."""
POLL_S = 0.1
RESTART_AFTER_S = 1.0
KERNEL_MODULES = ("br_netfilter", "overlay", "veth", "bridge", "nf_tables")


class Cluster:
    """A Kubernetes of several nodes on this machine."""

    def __init__(self, settings: Settings, reporter: Reporter | None = None) -> None:
        self.settings = settings
        self.reporter = reporter or Reporter(Durations(settings.cache / "durations.json"))
        self.images = Images(settings, self.reporter)
        self._processes = Processes(settings.records, settings.logs)

    @classmethod
    def ensure(cls, settings: Settings | None = None) -> Cluster:
        """The cluster, up: whatever that takes, from nothing to a look that all is well."""
        cluster = cls(settings or Settings.from_environment())
        packages.install(packages.read(PACKAGES), cluster.settings.cache / "logs" / "apt.log", cluster.reporter)
        builds.build(cluster.settings, cluster.reporter)
        cluster.up()
        return cluster

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, usable from the host."""
        return self.settings.kubeconfig

    @property
    def nodes(self) -> tuple[NodeSettings, ...]:
        """The nodes' names, addresses, namespaces, uplinks and pod ranges."""
        return self.settings.nodes

    def node(self, name: str) -> NodeSettings:
        """One node by its name."""
        for candidate in self.nodes:
            if candidate.name == name:
                return candidate
        raise ClusterError(f"no node is called {name}; there are {', '.join(node.name for node in self.nodes)}")

    def program(self, name: str) -> Path:
        """The path of a program built here: kubectl, helm, ..."""
        return builds.binary(self.settings, name)

    def environment(self) -> dict[str, str]:
        """An environment in which kubectl and helm are on PATH and speak to this cluster."""
        path = os.pathsep.join([*(str(self.program(name).parent) for name in ("kubectl", "helm")), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *words: str, input: str | None = None, check: bool = True, timeout_s: float | None = 120) -> str:
        """What kubectl prints; an error of its own is raised unless `check` is false."""
        return self._run([str(self.program("kubectl")), *words], input, check, timeout_s, self.environment())

    def helm(self, *words: str, program: str = "helm", check: bool = True, timeout_s: float | None = 300) -> str:
        """What helm, or `program` in its place (helm3), prints."""
        return self._run([str(self.program(program)), *words], None, check, timeout_s, self.environment())

    def exec_command(self, name: str, *words: str) -> list[str]:
        """The command line that runs a command inside a node: its network, mounts and processes."""
        init = self._init(self.node(name).name)
        if init is None:
            raise ClusterError(f"{name} is not running; its log is {self._processes.log(name)}. `python -m testbed up` starts the cluster.")
        return [*node.enter(init), *words]

    def exec(self, name: str, *words: str, check: bool = True, timeout_s: float | None = 60) -> str:
        """What a command run inside a node prints."""
        return self._run(self.exec_command(name, *words), None, check, timeout_s, dict(os.environ))

    def stop_node(self, name: str) -> None:
        """Cuts a node's power: its daemons, all its containers and their control groups are gone at once. Its disk and its cable stay."""
        found = self.node(name)
        self._processes.kill(found.name)
        group = node.cgroup(self.settings, found)
        cgroups.remove(group)  # a kubelet that starts waits three seconds for each container whose group is there and which is dead
        cgroups.create(group)

    def start_node(self, name: str) -> None:
        """Switches a stopped node on again; the control plane will find it Ready some seconds later."""
        self._start_node(self.node(name))

    def cut(self, name: str) -> None:
        """Pulls a node's cable: nothing leaves or reaches the node until `mend`."""
        network.plug(self.settings, self.node(name), False)

    def part(self, name: str) -> None:
        """Lets no frame pass between a node and the control plane until `mend`; the node and the other nodes still hear each other."""
        network.part(self.settings, self.node(name), True)

    def mend(self, name: str) -> None:
        """Undoes `cut` and `part`."""
        network.plug(self.settings, self.node(name), True)
        network.part(self.settings, self.node(name), False)

    def crash(self, name: str) -> None:
        """`kill -9` of a process by its log's name: etcd, kube-apiserver, node-1-containerd, ... It is started again a second later, as systemd
        would."""
        if name in controlplane.names(self.settings):
            self._processes.kill(name)
            time.sleep(RESTART_AFTER_S)
            self._start_control(builds.binary(self.settings, name))
            return
        found = next((found for found in self.nodes if name.startswith(f"{found.name}-")), None)
        init = self._init(found.name) if found else None
        pid = node.daemon_pid(init, name.removeprefix(f"{found.name}-")) if found and init else None
        if pid is None:
            raise ClusterError(f"no process {name} runs; there are {', '.join(self.log_files())}")
        os.kill(pid, signal.SIGKILL)

    def signal(self, namespace: str, pod: str, container: str, name: str) -> None:
        """Sends a signal (SIGKILL, SIGSTOP, ...) to a container's first process, without a word to the kubelet."""
        found = json.loads(self.kubectl("-n", namespace, "get", "pod", pod, "-o", "json"))
        running = next(entry for entry in found["status"]["containerStatuses"] if entry["name"] == container)
        identity = running["containerID"].removeprefix("containerd://")
        self.exec(found["spec"]["nodeName"], *containers.CTR, "task", "kill", "--signal", name, identity)

    def load(self, *archives: Path) -> None:
        """Imports images into every node, all at once; a node that has the same image already is left alone."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda found: self._load_into(found.name, archives), self.nodes))

    def healthy(self) -> bool:
        """Whether every process runs and every node is Ready."""
        return self._all_run() and self._all_ready()

    def up(self) -> None:
        """Starts the cluster; one that is well is left as it is, one that is not is ended first."""
        if os.geteuid() != 0:
            raise SetupError("a cluster takes namespaces, mounts and control groups: run as root")
        with self._locked():
            if self._all_run() and self._becomes(self._all_ready, WELL_WITHIN_S):
                self.reporter.say(f"The cluster is up already. KUBECONFIG={self.kubeconfig}")
                return
            self._require_packages()
            programs = self._programs()
            pause = self.images.of_program("pause")
            self._down()
            what = f"a cluster of {len(self.nodes)} nodes" if self.nodes else "an API server"
            with self.reporter.task(f"up-{len(self.nodes)}", f"Starting {what}", 30 if self.nodes else 8):
                self._start(programs, pause)
            self.reporter.say(f"The cluster is up. KUBECONFIG={self.kubeconfig}")

    def down(self) -> None:
        """Ends the cluster and removes all that it made, also when it crashed half-way."""
        with self._locked():
            with self.reporter.task("down", "Ending the cluster", 3):
                self._down()

    def log_files(self) -> dict[str, Path]:
        """The log of every process by name: etcd, kube-apiserver, node-1 (its first process), node-1-kubelet, ..."""
        return {path.stem: path for path in sorted(self.settings.logs.glob("*.log"))}

    def processes(self) -> list[tuple[str, bool]]:
        """The names of the processes that were started, and whether they run."""
        return [(record.name, record.alive()) for record in self._processes.all()]

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.settings.cache / f"cluster-{self.settings.index}.lock")

    def _all_run(self) -> bool:
        expected = {*controlplane.names(self.settings), *(found.name for found in self.nodes)}
        return {record.name for record in self._processes.all() if record.alive()} == expected

    def _all_ready(self) -> bool:
        api, names = Api(self.settings), {found.name for found in self.nodes}
        return _answers(lambda: api.ready_nodes() == names if names else api.ready())

    def _start(self, programs: dict[str, Path], pause: Path) -> None:
        settings = self.settings
        certificates.write_all(settings, datetime.datetime.now(datetime.UTC))
        controlplane.write_kubeconfigs(settings)
        network.create(settings)
        cgroups.create(settings.daemons_group)
        for name in controlplane.STORE:
            self._start_control(programs[name])
        if self.nodes:
            self._start_nodes(programs, pause)
        else:
            self._wait(Api(settings).ready, API_WITHIN_S, "the API server to be ready", controlplane.STORE)

    def _start_nodes(self, programs: dict[str, Path], pause: Path) -> None:
        settings = self.settings
        for found in self.nodes:
            cgroups.create(node.cgroup(settings, found))
            node.write_files(settings, found, programs)
            self._start_node(found)
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            loaded = [pool.submit(self._load_into, found.name, [pause]) for found in self.nodes]
            api = Api(settings)
            self._wait(api.ready, API_WITHIN_S, "the API server to be ready", controlplane.STORE)
            for name in controlplane.CONTROLLERS:
                self._start_control(programs[name])
            for found in self.nodes:
                api.create("/api/v1/nodes", controlplane.node_object(found.name, found.pod_cidr))
                node.joined_marker(found).touch()
            for future in loaded:
                future.result()
        self._wait(self._all_ready, NODES_WITHIN_S, "all nodes to be Ready", [f"{found.name}-kubelet" for found in self.nodes])
        self._wait(lambda: _answers(lambda: api.exists("/api/v1/namespaces/default/serviceaccounts/default")), NODES_WITHIN_S,
                   "the default service account", ["kube-controller-manager"])

    def _start_node(self, found: NodeSettings) -> None:
        self._processes.start(found.name, [*cgroups.enter(self.settings.daemons_group), *node.init_command(found)])

    def _start_control(self, program: Path) -> None:
        words = controlplane.command(self.settings, program)
        within = [*cgroups.enter(self.settings.daemons_group), *network.enter(self.settings.control_namespace)]
        self._processes.start(program.name, [*within, *words])

    def _down(self) -> None:
        settings = self.settings
        self._processes.kill(*(record.name for record in self._processes.all()))
        cgroups.remove(settings.prefix)
        network.remove(settings)
        if settings.state.exists():
            shutil.rmtree(settings.state)
            with contextlib.suppress(OSError):
                settings.state.parent.rmdir()

    def _load_into(self, name: str, archives: Iterable[Path]) -> None:
        self._wait(lambda: self._init(name) is not None, NODES_WITHIN_S, f"the first process of {name}", [name])
        enter = self.exec_command(name)
        self._wait(lambda: containers.answers(enter), NODES_WITHIN_S, f"containerd of {name}", [f"{name}-containerd", name])
        for archive in archives:
            containers.import_image(enter, archive)

    def _init(self, name: str) -> int | None:
        record = self._processes.get(name)
        return record.child() if record else None

    def _programs(self) -> dict[str, Path]:
        programs = {name: builds.binary(self.settings, name) for name in builds.KUBERNETES.names}
        containerd = shutil.which("containerd")
        if not containerd:
            raise SetupError("containerd is not installed. Run `python -m testbed setup`.")
        return {**programs, "containerd": Path(containerd)}

    def _require_packages(self) -> None:
        absent = packages.missing(packages.read(PACKAGES)) if shutil.which("dpkg-query") else []
        if absent:
            raise SetupError(f"these Debian packages are missing: {' '.join(absent)}. Run `python -m testbed setup`.")
        for module in KERNEL_MODULES if shutil.which("modprobe") else ():
            subprocess.run(["modprobe", "-q", module], check=False, capture_output=True)

    def _wait(self, condition: Callable[[], bool], within_s: float, what: str, logs: Sequence[str]) -> None:
        if not self._becomes(condition, within_s):
            ends = "\n".join(f"{self._processes.log(name)}:\n{tail(self._processes.log(name), 15)}" for name in logs)
            raise ClusterError(f"waited {within_s:.0f} s in vain for {what}. The logs end with:\n{ends}")

    @staticmethod
    def _becomes(condition: Callable[[], bool], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    @staticmethod
    def _run(argv: Sequence[str], text: str | None, check: bool, timeout_s: float | None, env: dict[str, str]) -> str:
        try:
            result = subprocess.run(argv, input=text, stdin=subprocess.DEVNULL if text is None else None, capture_output=True, text=True,
                                    check=False, timeout=timeout_s, env=env)
        except subprocess.TimeoutExpired as late:
            raise ClusterError(f"`{' '.join(argv)}` did not end within {timeout_s} s") from late
        if check and result.returncode:
            raise ClusterError(f"`{' '.join(argv)}` failed with exit code {result.returncode}:\n{result.stderr}{result.stdout}")
        return result.stdout


def _answers(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except UNREACHABLE:
        return False
