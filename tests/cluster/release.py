"""The project's own release, from this checkout onto a cluster: wheels, images, chart, examples. Demo, cluster tests and benches all start here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from testbed import Cluster, Reporter
from testbed.images import archive_digest

TOP = Path(__file__).resolve().parents[2]
NAMESPACE = "wharfinger-system"
OTLP = "http://{address}:4318"
COMMAND = ("crds", "dataplane", "cli")
"""Where the command line's packages are."""
SOURCES = ("pyproject.toml", "setup.py", "crds", "operator", "dataplane", "cli")
BUILT = {".so", ".o", ".pyc"}
IMAGES = {
    "operator": "operator/Dockerfile",
    "dataplane": "dataplane/Dockerfile",
    "sidecar": "dataplane/wharfinger_sidecar/Dockerfile",
    "shop": "examples/shop/Dockerfile",
}


WORKLOADS = {"deployment/wharfinger-operator": "operator", "deployment/wharfinger-injector": "operator", "daemonset/wharfinger-agent": "dataplane"}


class ReleaseError(Exception):
    """The release could not be built or did not come up: what, and where to look."""


def wheels(reporter: Reporter) -> Path:
    """dist/wheels with the project and all that its images need, built anew when a source changed."""
    folder = TOP / "dist" / "wheels"
    stamp = folder / "sources.sha256"
    key = _digest(path for name in SOURCES for path in _files(TOP / name))
    if stamp.is_file() and stamp.read_text() == key:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for former in folder.glob("wharfinger-*.whl"):
        former.unlink()
    with reporter.task("wheels", "Building the wheels", 12):
        _build_wheels(folder)
    stamp.write_text(key)
    return folder


def _build_wheels(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--wheel-dir", str(folder), f"{TOP}[operator,dataplane]"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"})
    if done.returncode:
        raise ReleaseError(f"building the wheels failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def _files(path: Path) -> Iterable[Path]:
    found = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    return [entry for entry in found if entry.suffix not in BUILT and "__pycache__" not in entry.parts and ".egg-info" not in str(entry)]


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(TOP)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Release:
    """Wharfinger and its examples on a testbed's cluster, whose nodes are given the images."""

    cluster: Cluster

    def images(self) -> None:
        """Builds what changed and loads it into every node."""
        wheels(self.cluster.reporter)
        built = [self.cluster.images.build(name, TOP / dockerfile, TOP) for name, dockerfile in IMAGES.items()]
        with self.cluster.reporter.task("load", "Loading the images into every node", 15):
            self.cluster.load(*built, self.cluster.images.of_program("jaeger"))

    def jaeger(self) -> str:
        """Jaeger on the cluster; its Service's address."""
        with self.cluster.reporter.task("jaeger", "Starting Jaeger", 6):
            self.cluster.kubectl("apply", "-f", str(TOP / "examples" / "jaeger"))
            self.cluster.kubectl("-n", "observability", "rollout", "status", "deployment/jaeger", "--timeout=120s", timeout_s=130)
        return self.cluster.kubectl("-n", "observability", "get", "service", "jaeger", "-o", "jsonpath={.spec.clusterIP}").strip()

    def install(self, *settings: str, program: str = "helm") -> str:
        """`helm upgrade --install`, by the helm that `program` names, and waits until all of it runs."""
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}))
        with self.cluster.reporter.task("helm", "helm upgrade --install wharfinger charts/wharfinger", 15):
            return self.cluster.helm("upgrade", "--install", "wharfinger", str(TOP / "charts" / "wharfinger"), "--namespace", NAMESPACE,
                                     "--set", "image.tag=dev", *[word for setting in settings for word in ("--set", setting)],
                                     "--wait", "--timeout", "180s", program=program)

    def command(self, *words: str) -> tuple[int, dict]:
        """What `wharfinger` of this checkout answers: its exit code and its JSON."""
        environment = {**self.cluster.environment(), "PYTHONPATH": os.pathsep.join(str(TOP / root) for root in COMMAND)}
        done = subprocess.run([sys.executable, "-m", "wharfinger_cli", *words, "-o", "json"], env=environment, capture_output=True, text=True,
                              timeout=60)
        if done.stderr:
            raise ReleaseError(f"`wharfinger {' '.join(words)}` complains:\n{done.stderr}")
        return done.returncode, json.loads(done.stdout)

    def shop(self) -> None:
        """examples/shop, ready: its pods run and its pools are Programmed."""
        with self.cluster.reporter.task("shop", "Starting the shop and its clients", 10):
            self.cluster.kubectl("apply", "-f", str(TOP / "examples" / "shop"))
            for name in ("shop", "client", "client-unaware"):
                self.cluster.kubectl("-n", "shop", "rollout", "status", f"deployment/{name}", "--timeout=120s", timeout_s=130)
            for kind in ("serviceportpool", "redirectportpool"):
                self.cluster.kubectl("-n", "shop", "wait", f"{kind}/shop", "--for=condition=Programmed", "--timeout=60s")

    def refresh(self) -> None:
        """Rolls those of the release's workloads whose image changed since they were rolled last: its name says only `dev`."""
        for workload, name in WORKLOADS.items():
            digest = archive_digest(self.cluster.images.build(name, TOP / IMAGES[name], TOP))[1]
            patch = {"spec": {"template": {"metadata": {"annotations": {"wharfinger.io/image": digest}}}}}
            self.cluster.kubectl("-n", NAMESPACE, "patch", workload, "--type=merge", "-p", json.dumps(patch))
        for workload in WORKLOADS:
            self.cluster.kubectl("-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s")


def wait_for(condition: Callable[[], object], what: str, *, seconds: float = 30, every: float = 0.2) -> object:
    """The first true answer of `condition`. ReleaseError after `seconds`: says what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise ReleaseError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(every)
