"""The programs that are built from Go modules: what they are, and building them once into the cache."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from . import toolchain
from .cache import building, keep_newest, key_of
from .errors import BuildError
from .progress import Reporter, run_logged
from .settings import GO, Settings


@dataclass(frozen=True)
class Component:
    """One Go module of tests/cluster/go, and the binary that comes of it."""

    name: str
    package: str
    """What `go build` is given: `.` or the import path of the module's tool."""
    versioned: str
    """The required module whose version the binary says it has; empty for none."""
    version_variables: tuple[str, ...] = ()
    """Linker variables that get `versioned`'s version."""
    names: tuple[str, ...] = ()
    """What else the binary is called (one that goes by its name)."""
    cold_s: float = 60
    """What a first build took on two cores."""

    @property
    def module(self) -> Path:
        return GO / self.name


KUBERNETES = Component(
    name="kubernetes", package=".", versioned="k8s.io/kubernetes", cold_s=316,
    version_variables=("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion"),
    names=("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"))
HELM = Component(
    name="helm", package="helm.sh/helm/v4/cmd/helm", versioned="helm.sh/helm/v4", cold_s=140,
    version_variables=("helm.sh/helm/v4/internal/version.version",))
HELM3 = Component(
    name="helm3", package="helm.sh/helm/v3/cmd/helm", versioned="helm.sh/helm/v3", cold_s=72,
    version_variables=("helm.sh/helm/v3/internal/version.version",))
JAEGER = Component(
    name="jaeger", package="github.com/jaegertracing/jaeger/cmd/all-in-one", versioned="github.com/jaegertracing/jaeger",
    version_variables=("github.com/jaegertracing/jaeger/pkg/version.latestVersion",), cold_s=96)
KUBE_SCORE = Component(name="kube-score", package="github.com/zegl/kube-score/cmd/kube-score", versioned="github.com/zegl/kube-score", cold_s=50)
PAUSE = Component(name="pause", package=".", versioned="", cold_s=10)
COMPONENTS = {component.name: component for component in (KUBERNETES, HELM, HELM3, JAEGER, KUBE_SCORE, PAUSE)}


def required_version(go_mod: str, module: str) -> str:
    """The version that a go.mod's text requires of a module."""
    found = re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise BuildError(f"go.mod requires no {module}; add it to the module's require block")
    return found[1]


def linker_flags(component: Component, go_mod: str) -> str:
    """Stripped, with the version variables that `kubectl version` and its like print."""
    flags = ["-s", "-w"]
    if component.versioned:
        version = required_version(go_mod, component.versioned)
        flags += [f"-X {variable}={version}" for variable in component.version_variables]
        if component is KUBERNETES:
            major, minor = version.lstrip("v").split(".")[:2]
            for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
                flags += [f"-X {package}.gitMajor={major}", f"-X {package}.gitMinor={minor}", f"-X {package}.gitTreeState=clean"]
    return " ".join(flags)


def build_command(go: Path, component: Component, flags: str, output: Path) -> list[str]:
    """The command that makes the binary, at the lowest priority."""
    return ["nice", "-n", "10", str(go), "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(output), component.package]


def directory(settings: Settings, component: Component) -> Path:
    """Where this component's build is, or will be: named by what goes into it."""
    flags = linker_flags(component, (component.module / "go.mod").read_text())
    sources = [path for path in sorted(component.module.iterdir()) if path.suffix in {".go", ".mod", ".sum"}]
    key = key_of(platform.machine(), flags, component.package, *component.names, *sources)
    return settings.cache / "builds" / f"{component.name}-{key}"


def binary(settings: Settings, name: str) -> Path:
    """The path of a built program by its own name: kubectl, helm, jaeger, kubelet, ..."""
    for component in COMPONENTS.values():
        if name == component.name or name in component.names:
            path = directory(settings, component) / name
            if not path.exists():
                raise BuildError(f"{name} has not been built: {path} is not there. Run `python -m testbed build {component.name}`.")
            return path
    raise BuildError(f"{name} is none of the programs built here; they are {', '.join(program_names())}")


def program_names() -> list[str]:
    """Every name that `binary` knows."""
    return [name for component in COMPONENTS.values() for name in (component.names or (component.name,))]


def build(settings: Settings, reporter: Reporter, names: tuple[str, ...] = ()) -> None:
    """Builds what is not in the cache yet; all components unless some are named."""
    unknown = set(names) - set(COMPONENTS)
    if unknown:
        raise BuildError(f"no component is called {', '.join(sorted(unknown))}; there are {', '.join(COMPONENTS)}")
    for component in COMPONENTS.values():
        if not names or component.name in names:
            _build_one(settings, reporter, component)


def _build_one(settings: Settings, reporter: Reporter, component: Component) -> None:
    target = directory(settings, component)
    with building(target) as scratch:
        if scratch is None:
            return
        go = toolchain.find_go(settings, reporter)
        flags = linker_flags(component, (component.module / "go.mod").read_text())
        command = build_command(go, component, flags, scratch / component.name)
        environment = {**os.environ, **toolchain.ENVIRONMENT}
        log = settings.cache / "logs" / f"build-{component.name}.log"
        with reporter.task(f"build-{component.name}", f"Building {component.name} from its Go module", component.cold_s):
            run_logged(command, log, env=environment, cwd=component.module, what=f"Building {component.name}")
        for name in component.names:
            (scratch / name).symlink_to(component.name)
    keep_newest(target.parent, f"{component.name}-*[0-9a-f]", 3)
