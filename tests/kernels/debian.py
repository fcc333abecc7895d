"""The kernels of Debian's packages: which there are, and their images and modules, unpacked in the cache.

Nothing is installed, and the machine's own package lists stay as they are: apt works in directories of its
own, from the mirror that the machine uses already. A kernel is fetched again when the one in the cache is a
week old: a mirror keeps only the newest of a release. """

from __future__ import annotations

import lzma
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.cache import building, keep_newest, locked
from testbed.errors import BuildError
from testbed.progress import Reporter, run_logged

WEEK_S = 7 * 24 * 3600
TARGETS = (
    "apt-get",
    "indextargets",
    "--format",
    "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)",
    "Created-By: Packages",
)


@dataclass(frozen=True)
class Kernel:
    """A kernel that users have: the release of Debian that brings it, its version, how programs can be
    attached in it, and the architecture, as Debian calls it."""

    suite: str
    version: str
    modes: tuple[str, ...]
    arch: str = "amd64"

    @property
    def package(self) -> str:
        return f"linux-image-cloud-{self.arch}"

    @property
    def place(self) -> str:
        """How its files in the cache begin."""
        return f"{self.arch}-{self.suite}"


KERNELS = (Kernel("bookworm", "6.1", ("clsact",)), Kernel("trixie", "6.12", ("tcx", "clsact")))
ARM64 = tuple(replace(kernel, arch="arm64") for kernel in KERNELS)


@dataclass(frozen=True)
class Unpacked:
    """A kernel package's contents."""

    root: Path

    @property
    def image(self) -> Path:
        return next(self.root.glob("boot/vmlinuz-*"))

    @property
    def release(self) -> str:
        """As `uname -r` says it."""
        return self.image.name.removeprefix("vmlinuz-")

    def modules(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those that are not built in, uncompressed, each after what it depends on."""
        files = {path.name.split(".")[0].replace("-", "_"): path for path in self.root.glob("**/*.ko*")}
        builtin = {
            Path(line).stem.replace("-", "_")
            for line in next(self.root.glob("**/modules.builtin")).read_text().split()
        }
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in found or name in builtin:
                return
            if name not in files:
                raise BuildError(f"kernel {self.release} has no module {name}")
            data = files[name].read_bytes()
            data = lzma.decompress(data) if files[name].suffix == ".xz" else data
            for needed in dependencies(data):
                add(needed)
            found[name] = data

        for name in names:
            add(name)
        return found


def dependencies(module: bytes) -> list[str]:
    """The modules that a module says it needs."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def own_suite() -> str:
    """The release of Debian that this machine runs; empty when it runs something else."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
    return found[1] if found else ""


def sources(targets: str, own: str, suite: str) -> str:
    """A sources list for another release of Debian, from what TARGETS says of the machine's own release."""
    lines = {
        (uri, component)
        for origin, release, component, uri in (line.split("|") for line in targets.splitlines())
        if (origin, release) == ("Debian", own)
    }
    if not lines:
        raise BuildError(f"apt knows no mirror of Debian {own}; run `apt-get update`")
    return "".join(f"deb {uri} {suite} {component}\n" for uri, component in sorted(lines))


def unpacked(kernel: Kernel, cache: Path, reporter: Reporter) -> Unpacked:
    """The newest package of that kernel, as of a week ago. An older one does while the mirror is away."""
    folder, pattern = cache / "kernels", f"{kernel.place}-[0-9]*[0-9]"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{kernel.place}.fetch.lock"):
        kept = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
        if kept and time.time() - kept[-1].stat().st_mtime < WEEK_S:
            return Unpacked(kept[-1])
        try:
            title = f"Fetching Debian's kernel {kernel.version} ({kernel.arch})"
            with reporter.task(f"kernel-{kernel.place}", title, 12):
                target = _fetch(kernel, folder, cache / "logs" / f"kernel-{kernel.place}.log")
        except BuildError as error:
            if not kept:
                raise
            reporter.say(f"{error}\nGoing on with {kept[-1].name} of the cache.")
            return Unpacked(kept[-1])
        target.touch()
        keep_newest(folder, pattern, 2)  # a run that began earlier may be at work with the former one
        return Unpacked(target)


def _fetch(kernel: Kernel, folder: Path, log: Path) -> Path:
    apt = folder / f"apt-{kernel.place}"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(sources(_said(*TARGETS), own_suite(), kernel.suite))
    settings = {"Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
                "Dir::State::lists": apt / "lists", "Dir::State::status": "/dev/null",
                "Dir::Cache": apt / "cache", "Acquire::Languages": "none", "APT::Sandbox::User": "root",
                "APT::Architecture": kernel.arch, "APT::Architectures": f"{{{kernel.arch}}}",
                "Acquire::http::Timeout": "30", "Acquire::Retries": "3"}
    options = [f"-o{name}={value}" for name, value in settings.items()]
    run_logged(["timeout", "300", "apt-get", *options, "update", "-q", "--error-on=any"], log,
               what=f"Reading Debian {kernel.suite}'s package lists")
    found = re.search(r"Depends: (linux-image-\d\S+)",
                      _said("apt-cache", *options, "depends", kernel.package))
    if not found:
        raise BuildError(f"{kernel.package} of Debian {kernel.suite} names no kernel")
    version = re.search(r"Candidate: (\d\S+)", _said("apt-cache", *options, "policy", found[1]))
    if not version:
        raise BuildError(f"Debian {kernel.suite} has no {found[1]}")
    target = folder / f"{kernel.place}-{version[1]}"
    with building(target) as scratch:
        if scratch is not None:
            run_logged(["timeout", "300", "apt-get", *options, "download", found[1]], log, cwd=scratch,
                       what=f"Fetching {found[1]}")
            (package,) = scratch.glob("*.deb")
            run_logged(["dpkg", "-x", package, scratch], log, what=f"Unpacking {package.name}")
            package.unlink()
    return target


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
